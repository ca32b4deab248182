"""Requests that this process's clients sent to brokers, as librdkafka counts them.

Off unless [kafka] `statistics.interval.ms` is set: every client then tells its counters that often, on the thread that polls it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

import msgspec
from msgspec import Struct

INTERVAL: Final = "statistics.interval.ms"


class _Broker(Struct):
    """What one client sent to one broker since it was made, by kind of request."""

    req: dict[str, int] = {}


class _Statistics(Struct):
    """The part of librdkafka's statistics that is read here."""

    brokers: dict[str, _Broker] = {}


_DECODER: Final = msgspec.json.Decoder(_Statistics)
_clients: Final = count()
_sent: Final[dict[int, Counter[str]]] = {}
"""Client → what it last told; a client that was closed stays counted."""


def counting(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a client's configuration needs to be counted: nothing where statistics are off."""
    return {"stats_cb": _counter()} if config.get(INTERVAL, "0") != "0" else {}


def sent() -> Counter[str]:
    """Requests by kind (Produce, Fetch, …) of all clients so far; as old as the interval."""
    return sum(list(_sent.values()), Counter())


def _counter() -> Callable[[str], None]:
    client = next(_clients)

    def take(told: str) -> None:
        brokers = _DECODER.decode(told).brokers.values()
        _sent[client] = sum((Counter(broker.req) for broker in brokers), Counter())  # a sum drops zeros

    return take
