"""Hold our filters, weighers and operators against decisions recorded from Nova's tests: `python tests/peer/nova_cases.py FILE`.

FILE has one JSON object a line (`.gz` or not). Prints each difference and each reason for skipping, then `N passed, N failed, N skipped`;
exit code 1 on a difference. A case is mapped to our records by tables and by what its data say, never by which case it is; it is skipped
only where the data that decide it were not recorded.
"""

import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from commonplace.core import choosing, filter_table, filters, request_filters, specs
from commonplace.core.filter_table import canonical
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.view import View
from peer.nova_data import Undecidable, request_of, view_of

Case = Mapping[str, Any]
Asked = Callable[[View, Row, Wishes], str]

ON_COLUMNS: Mapping[str, tuple[Any, ...]] = {
    "compute": (filters.status, filters.liveness),
    "io_ops": (filters.io_ops,),
    "num_instances": (filters.instances,),
}
"""Nova's filters that are on columns here, by their plain forms."""

CONCERNED_ALWAYS = {"server_group_anti_affinity": request_filters.server_group_anti_affinity}
"""Settled by an index in the ranking, hence never asked host by host; the plain form is the same."""


def decide(case: Case) -> Any:
    """What we make of a case, in the form of its `expect`."""
    match case["kind"]:
        case "match":
            return case["value"] is not None and specs.matches(str(case["value"]), case["req"])
        case "filter":
            return passes(case)
        case "weigh":
            return weigh(case)
    raise Undecidable(f"kind {case['kind']!r} is not known")


def passes(case: Case) -> bool:
    """Whether the case's filter passes the host."""
    name = canonical(case["filter"])
    view, rows = view_of(case, [case["host"]], name)
    wishes = request_of(case, name)
    if name in ON_COLUMNS:
        return not any(plain(view, rows[0], wishes.ask) for plain in ON_COLUMNS[name])
    one = filter_table.TABLE[name]
    if name == "server_group_anti_affinity":
        return not (wishes.build.group_max and one.plain(view, rows[0], wishes))
    return not (one.applies(wishes) and one.plain(view, rows[0], wishes))


def weigh(case: Case) -> list[list[Any]]:
    """The case's hosts with their weights, best first."""
    view, rows = view_of(case, case["hosts"], canonical(case["weighers"][0], "Weigher"))
    return [[one.row.host.name, one.score] for one in choosing.weigh(view, rows, request_of(case, ""))]


def same(ours: Any, theirs: Any) -> bool:
    """Whether two outcomes are one; weights to nine decimals."""
    if isinstance(theirs, list):
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(a[0] == b[0] and abs(a[1] - b[1]) < 1e-9 for a, b in pairs)
    return bool(ours == theirs)


def outcome(case: Case) -> tuple[str, str]:
    """`passed`, `failed` or `skipped`, and what to say of it."""
    expect = case["expect"]
    raises = isinstance(expect, dict) and "raises" in expect
    try:
        ours = decide(case)
    except Undecidable as error:
        return "skipped", str(error)
    except ValueError as error:  # what we refuse with a reason, Nova raises
        return ("passed", "") if raises else ("failed", f"refused: {error}, expected {expect}")
    except Exception as error:  # noqa: BLE001 (data of a form not met yet differ, and the other cases still count)
        return "failed", f"{type(error).__name__}: {error}, expected {expect}"
    if raises or not same(ours, expect):
        return "failed", f"{ours}, expected {expect}"
    return "passed", ""


def cases(path: Path) -> Iterator[Case]:
    """The cases of a file."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return (json.loads(line) for line in text.splitlines() if line.strip())


def main(path: Path) -> int:
    """Run a file; returns the exit code."""
    counts: Counter[str] = Counter()
    for case in cases(path):
        result, why = outcome(case)
        counts[result] += 1
        if why:
            what = case.get("filter") or " ".join(case.get("weighers", ())) or case["kind"]
            print(f"{result}: {what}: {case.get('source', '').rpartition('.')[2]}: {why}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: nova_cases.py FILE")
    sys.exit(main(Path(sys.argv[1])))
