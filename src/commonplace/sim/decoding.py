"""Each record of a log is decoded once for all who read it: half a dozen processes and a checker read the same bytes.

Decoded records are never changed by anybody, which is what makes sharing them sound; `changed` tells of one that was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from commonplace.core import codec


class Remembering:
    """A decoder that keeps what it made of each value. What cannot be decoded raises each time, as it does for everybody."""

    __slots__ = ("decoder", "known")

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.known: dict[bytes, Any] = {}

    def decode(self, raw: bytes) -> Any:
        found = self.known.get(raw)
        if found is None:
            found = self.known[raw] = self.decoder.decode(raw)
        return found


@contextmanager
def remembered() -> Iterator[dict[str, Remembering]]:
    """While it lasts every topic's decoder remembers; a core that runs inside decodes as it always does."""
    decoders = codec._decoders
    before = dict(decoders)
    remembering = {topic: Remembering(decoder) for topic, decoder in before.items()}
    decoders.update(remembering)  # type: ignore[arg-type]  # by shape
    try:
        yield remembering
    finally:
        decoders.update(before)


def changed(remembering: dict[str, Remembering]) -> list[bytes]:
    """Values of which somebody changed the shared record."""
    return [
        value
        for memory in remembering.values()
        for value, record in memory.known.items()
        if record != memory.decoder.decode(value)
    ]
