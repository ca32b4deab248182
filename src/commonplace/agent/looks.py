"""When an agent reads `hosts`: while something of its own is to be read back, or claims come in for it; else it looks now and then.

    reads on ──nothing awaited, no claim for a while──▶ held ──something written──▶ reads on
                                                          └──a second later──▶ a look: what came at once, and held again

The topic bears every host's reports. An agent of a few hosts that read them all as they come would ask the broker, and wake, for each
report of a busy pool: its own work would be the least of what it does (docs/sizing.md).
"""

from collections.abc import Callable
from typing import Final

from commonplace.kafka.tail import Tail

CLAIMED_MS: Final = 500
"""After a claim that was taken more is to come soon: its confirm, say, whose instance starts once the report is read back. A held topic
is read again with the next fetch only, and the one under way may stay at the broker for as long (`fetch.wait.max.ms`)."""

LOOK_EVERY_MS: Final = 1_000
"""How late a start record of a later agent may be met by one that has nothing to do; whatever it wrote until then is void all the same."""

LOOK_MS: Final = 1_000
"""A look that brings nothing ends after so long: by then the fetch of before is back, and the one with this topic on its way."""


class Looks:
    """Holds `topic` of the tail and lets it go on; `awaits` says whether something of ours is to be read back. For the tail's thread."""

    def __init__(self, tail: Tail, topic: str, awaits: Callable[[], bool]) -> None:
        self._tail, self._topic, self._awaits = tail, topic, awaits
        self._claimed_ms = self._changed_ms = 0

    def turned(self, now_ms: int, *, claimed: bool, read: bool) -> None:
        """A turn ended in which claims of ours were taken, or records of the topic read; `now_ms` of a steady clock."""
        if claimed or not self._claimed_ms:
            self._claimed_ms = now_ms
        since_ms = now_ms - self._changed_ms
        if now_ms - self._claimed_ms < CLAIMED_MS or self._awaits():
            self._hold(False, now_ms)
        elif self._tail.held(self._topic):
            self._hold(since_ms < LOOK_EVERY_MS, now_ms)
        else:
            self._hold(read or since_ms >= LOOK_MS, now_ms)

    def _hold(self, held: bool, now_ms: int) -> None:
        if held != self._tail.held(self._topic):
            self._changed_ms = now_ms
            (self._tail.hold if held else self._tail.go_on)(self._topic)
