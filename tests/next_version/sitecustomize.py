"""On PYTHONPATH, this makes a process of commonplace one of the next version of the wire.

It reads both versions, writes the one that NEXT_VERSION_WRITES names, and says more in its state records than today's readers know.
"""

import json
import os
from typing import Any, Final

from commonplace.core import codec
from commonplace.core.records import fields

WRITES: Final = int(os.environ["NEXT_VERSION_WRITES"])
SAYS_MORE: Final = frozenset(("start", "snapshot", "delta", "decision", "replica", "quarantined"))

_encode = codec.encode


def encode(record: Any) -> bytes:
    """A record as the next version writes it."""
    raw = _encode(record)
    config = getattr(record, "__struct_config__", None)  # parts of records are encoded to be measured, too
    if getattr(config, "tag", None) not in SAYS_MORE:
        return raw
    said = json.loads(raw)
    said["season"] = {"name": "spring", "days": [1, 2]}
    for name in ("allocations", "upserts", "settled", "placed"):
        said[name] = [{**one, "colour": "green"} for one in said.get(name, ())]
    return json.dumps({name: value for name, value in said.items() if value != []}, separators=(",", ":")).encode()


fields.VERSION = 1 + fields.VERSION
codec.VERSION = fields.VERSION  # type: ignore[attr-defined]  # what it imported under that name
codec.encode = encode
# the records hold the factory of their field `v`, so its body gives way, not its name
fields._version.__code__ = (lambda: 2).__code__ if WRITES == fields.VERSION else (lambda: 1).__code__
