"""What is put aside."""

from typing import Annotated

from msgspec import Meta

from commonplace.core.records.fields import Offset, Record, Short, Text


class Quarantined(Record, tag="quarantined", kw_only=True):
    """A record that could not be used: where it stands, why, and the first bytes of it in base64."""

    topic: Short
    partition: Offset
    offset: Offset
    reason: Text
    by: Short = ""
    key: Text = ""
    sample: Annotated[str, Meta(max_length=2048)] = ""
