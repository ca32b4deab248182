"""Fragments: free devices that the flavors of a mix cannot use, and by how much a placement adds to them.

For one flavor a host's fragment is the sum of its free devices, each as a share of itself, when the flavor asks for none or does not run
there; else the sum over those devices that have less free than it wants of one. The expected fragment is the mean over the mix
(Weng et al., "Beware of Fragmentation", USENIX ATC'23, sections 3 and 4: gradient descent picks the host where it grows least).

Whether a flavor of the mix runs on a host goes by sums of resources and by devices; its cells and groups are not looked at.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from commonplace.core.cells import after, assign, ratios_of
from commonplace.core.columns import Floats, Ints
from commonplace.core.facts import used
from commonplace.core.filters import Rows
from commonplace.core.laying import layout_of, plan
from commonplace.core.mixes import Mix
from commonplace.core.rows import Row
from commonplace.core.rules import Ask, Rules
from commonplace.core.view import View

DIGITS = 9
"""Increases are rounded to so many digits, so that sums in another order are still ties."""

Room = tuple[str, int, int]
"""A device: its class, its free shares, and its shares."""


def expected(free: Mapping[str, int], devices: Iterable[Room], mix: Mix) -> float:
    """Expected fragment of a host with so much free, in devices."""
    known, total = list(devices), 0.0
    for part in mix:
        runs = all(free.get(name, 0) >= amount for name, amount in part.resources.items()) and all(
            sum(kind == name and room >= shares for kind, room, _ in known) >= count
            for name, (count, shares) in part.devices.items()
        )
        wanted = {name: shares for name, (_, shares) in part.devices.items()} if runs else {}
        total += part.share * sum(room / of for kind, room, of in known if kind not in wanted or room < wanted[kind])
    return total


def increase(view: View, row: Row, ask: Ask, rules: Rules | None = None) -> float:
    """By how much the expected fragment of a host grows with an instance, in devices; 0 where there is no mix or it does not fit."""
    rules = rules or ask.rules
    if rules is None or not rules.mix or not row.host.cells:
        return 0.0
    before, left = _devices(row, ask, rules)
    free = {name: item.capacity - used(row, name) for name, item in row.host.inventory.items()}
    less = {name: amount - dict(ask.resources).get(name, 0) for name, amount in free.items()}
    return round(expected(less, left, rules.mix) - expected(free, before, rules.mix), DIGITS)


def _devices(row: Row, ask: Ask, rules: Rules) -> tuple[list[Room], list[Room]]:
    """A host's devices as they are, and as its ledger would leave them."""
    cells = row.cells
    layout = layout_of(rules.flavor, dict(ask.resources), cells)
    taken = plan(cells, layout, ratios_of(row.host.inventory)) if layout.devices or layout.groups else None
    left = after(cells, taken, assign(cells, taken, layout.terms), 1) if taken else cells
    return [(d.resource_class, d.free, d.shares) for cell in cells.values() for d in cell.devices], [
        (d.resource_class, d.free, d.shares) for cell in left.values() for d in cell.devices
    ]


def increase_column(view: View, rows: Rows, ask: Ask) -> Floats:
    """`increase` over columns: devices host by host, the mix by arrays."""
    rules = ask.rules
    chosen = np.arange(view.columns.rows)[rows]
    if rules is None or not rules.mix or not len(chosen):
        return np.zeros(len(chosen))
    both = [_devices(view.by_index[index], ask, rules) for index in chosen.tolist()]
    wanted = dict(ask.resources)
    names = {name for part in rules.mix for name in part.resources if name in view.columns.free}
    free = {name: view.columns.free[name][chosen] for name in names}
    less = {name: amounts - wanted.get(name, 0) for name, amounts in free.items()}
    grown = _expected(less, [one[1] for one in both], rules.mix) - _expected(free, [one[0] for one in both], rules.mix)
    rounded: Floats = np.round(grown, DIGITS)
    return rounded


def _expected(free: Mapping[str, Ints], devices: list[list[Room]], mix: Mix) -> Floats:
    """`expected` of many hosts."""
    width = max(map(len, devices))
    padded = [one + [("", 0, 1)] * (width - len(one)) for one in devices]
    kinds = {kind: number for number, kind in enumerate(sorted({kind for one in padded for kind, _, _ in one}))}
    table = np.array([[(kinds[kind], room, of) for kind, room, of in one] for one in padded], np.int64)
    kind, room, of = table.reshape(len(devices), width, 3).transpose(2, 0, 1)
    share, total = room / of, np.zeros(len(devices), np.float64)
    for part in mix:
        runs = np.ones(len(devices), np.bool_)
        for name, amount in part.resources.items():
            runs &= free[name] >= amount if name in free else False
        useful = np.zeros(room.shape, np.bool_)
        for name, (count, shares) in part.devices.items():
            enough = (kind == kinds.get(name, -1)) & (room >= shares)
            runs &= enough.sum(axis=1) >= count
            useful |= enough
        total += part.share * np.where(useful & runs[:, None], 0.0, share).sum(axis=1)
    return total
