"""Filters and weighers of third parties, by entry point: `commonplace.filters` and `commonplace.weighers`, each a name and a function.

    filter    (view, row, wishes) -> str      why the host will not do, "" when it will; asked under profiles that name it
    weigher   (view, row, wishes) -> float    raw value, more is better under a positive multiplier

`fact(row, name)` tells what is known of a host, `wishes` has `build`, `flavor`, `profile` and `aggregates` (docs/profiles.md). A
function that raises, answers something else, or takes longer than REQUEST_S_MAX over the hosts of one request is counted and named, and
left out of the rest of that request: a filter passes every host, a weigher says 0. It never ends a scheduler.
"""

import logging
import math
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from commonplace.core.facts import fact
from commonplace.core.filter_table import ON_COLUMNS, TABLE
from commonplace.core.raw_weighers import RAW, Weigher
from commonplace.core.rows import Row
from commonplace.core.rules import Filter, Wishes
from commonplace.core.view import View

__all__ = ["Row", "View", "Wishes", "fact", "faults", "load"]

FILTERS: Final = "commonplace.filters"
WEIGHERS: Final = "commonplace.weighers"
REQUEST_S_MAX: Final = 0.25
"""Time that one function may take over all hosts of one request: 10,000 hosts at 25 µs each."""
LEFT_OUT_MAX: Final = 1024
"""Requests for which a function is remembered as left out; past it the oldest are forgotten, and it may fail them once more."""

_LOG: Final = logging.getLogger(__name__)

faults: Final[dict[str, int]] = {}
"""How often each plugin raised, was too slow, or could not be loaded, since the start."""


class Guard:
    """A third party's function, held to its bounds."""

    def __init__(
        self, name: str, call: Callable[[View, Row, Wishes], Any], neutral: Any, fits: Callable[[Any], bool]
    ) -> None:
        self.name, self._call, self._neutral, self._fits = name, call, neutral, fits
        self._left_out: dict[str, None] = {}  # request ids, oldest first
        self._request, self._spent_s = "", 0.0

    def __call__(self, view: View, row: Row, wishes: Wishes) -> Any:
        """The function's answer, or what changes nothing."""
        request = wishes.build.id
        if request in self._left_out:
            return self._neutral
        if request != self._request:
            self._request, self._spent_s = request, 0.0
        began = time.perf_counter()
        try:
            answer = self._call(view, row, wishes)
        except Exception as error:  # noqa: BLE001 (whatever others write must not end a scheduler)
            return self._leave_out(request, row, f"{type(error).__name__}: {error}")
        self._spent_s += time.perf_counter() - began
        if not self._fits(answer):
            return self._leave_out(request, row, f"answered {answer!r:.80}")
        if self._spent_s > REQUEST_S_MAX:
            return self._leave_out(request, row, f"took more than {REQUEST_S_MAX:g} s")
        return answer

    def _leave_out(self, request: str, row: Row, why: str) -> Any:
        if len(self._left_out) >= LEFT_OUT_MAX:
            del self._left_out[next(iter(self._left_out))]
        self._left_out[request] = None
        _fault(self.name, "plugin %s left out of request %s at host %s: %.200s", request, row.host.name, why)
        return self._neutral


def load() -> list[str]:
    """Take up every plugin that is installed; returns their names. One that cannot be loaded, or whose name is taken, is logged."""
    return [*_load(FILTERS, _take_filter), *_load(WEIGHERS, _take_weigher)]


def _load(group: str, take: Callable[[str, Any], bool]) -> list[str]:
    loaded = []
    for point in sorted(entry_points(group=group), key=lambda one: one.name):
        call = _function(point)
        if call is None:
            continue
        if take(point.name, call):
            loaded.append(point.name)
        else:
            _fault(point.name, "plugin %s (%s) is not taken up: the name is taken", point.value)
    return loaded


def _function(point: EntryPoint) -> Any:
    try:
        call = point.load()
    except Exception as error:  # noqa: BLE001 (importing runs code of others)
        _fault(point.name, "plugin %s (%s) cannot be loaded: %.200s", point.value, error)
        return None
    if not callable(call):
        _fault(point.name, "plugin %s (%s) is no function", point.value)
        return None
    return call


def _take_filter(name: str, call: Any) -> bool:
    known = TABLE.get(name)
    if name in ON_COLUMNS or (known is not None and not isinstance(known.plain, Guard)):
        return False
    TABLE[name] = Filter(name, Guard(name, call, "", lambda answer: isinstance(answer, str)), lambda wishes: True)
    return True


def _take_weigher(name: str, call: Any) -> bool:
    known = RAW.get(name)
    if known is not None and not isinstance(known.raw, Guard):
        return False
    RAW[name] = Weigher(Guard(name, call, 0.0, _is_number), f"{name}_weight_multiplier")
    return True


def _is_number(answer: Any) -> bool:
    return isinstance(answer, (int, float)) and math.isfinite(answer)


def _fault(name: str, message: str, *details: object) -> None:
    """Count a fault; every one whose number is a power of two is logged, so that a broken plugin fills no disk."""
    faults[name] = count = faults.get(name, 0) + 1
    if count & (count - 1) == 0:
        _LOG.warning(message + " (fault %d)", name, *details, count)
