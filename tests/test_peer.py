"""The adapter for recorded decisions tells agreement, difference and what cannot be decided, and says so by its exit code."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from peer import nova_cases


def host(name: str = "h1", **said: Any) -> dict[str, Any]:
    return {"host": name, "free_ram_mb": 0, "instances": {}, "num_io_ops": 0, **said}


def ram(name: str, mb: int, **said: Any) -> dict[str, Any]:
    return host(name, free_ram_mb=mb, total_usable_ram_mb=4096, **said)


def decided_by(name: str, expect: Any, **case: Any) -> dict[str, Any]:
    return {
        "kind": "filter",
        "filter": name,
        "host": host(),
        "request": {"@type": "RequestSpec"},
        "expect": expect,
        **case,
    }


STAND_IN = {"@mock": "<MagicMock id='1'>"}
CASES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"kind": "match", "value": "4", "req": ">= 3", "expect": True}, "passed"),
    ({"kind": "match", "value": "4", "req": ">= 3", "expect": False}, "failed"),
    ({"kind": "shrug", "expect": False}, "skipped"),
    (
        decided_by("IoOpsFilter", False, host=host(num_io_ops=3), conf={"filter_scheduler.max_io_ops_per_host": 3}),
        "passed",
    ),
    (decided_by("NumInstancesFilter", True, host=host(num_instances=3)), "passed"),
    (decided_by("NumInstancesFilter", False, host=host(num_instances=3)), "failed"),
    (decided_by("ComputeFilter", False, service_is_up=False), "passed"),
    (decided_by("ComputeFilter", False, host=host(service={"disabled": True})), "passed"),
    (
        decided_by(
            "SameHostFilter",
            True,
            host=host(instances={"i": STAND_IN}),
            request={"scheduler_hints": {"same_host": ["i"]}},
        ),
        "passed",
    ),
    (decided_by("JsonFilter", {"raises": "KeyError"}, request={"scheduler_hints": {"query": ['["~", 1]']}}), "passed"),
    (decided_by("JsonFilter", True, request={"scheduler_hints": {"query": ['["~", 1]']}}), "failed"),
    (
        decided_by(
            "AggregateTypeAffinityFilter", False, request={"flavor": {"name": "m2"}}, aggregate_values={"@set": ["m1"]}
        ),
        "passed",
    ),
    (decided_by("AggregateMultiTenancyIsolation", True, aggregate_metadata=STAND_IN), "skipped"),
    (decided_by("PciPassthroughFilter", True, host=host(pci_stats=STAND_IN)), "skipped"),
    (
        decided_by(
            "PciPassthroughFilter",
            False,
            host=host(pci_stats={"@pci_stats": [{"count": 1, "vendor_id": "8086", "product_id": "1520"}]}),
            request={
                "pci_requests": {"requests": [{"count": 2, "spec": [{"vendor_id": "8086", "product_id": "1520"}]}]}
            },
        ),
        "passed",
    ),
    (
        decided_by(
            "ServerGroupAffinityFilter",
            False,
            request={"instance_group": {"policy": "affinity", "hosts": ["h2"], "members": ["i"]}},
        ),
        "passed",
    ),
    (
        {
            "kind": "weigh",
            "weighers": ["RAMWeigher"],
            "hosts": [
                ram("h1", 1024),
                ram("h2", 4096, aggregates=[{"metadata": {"ram_weight_multiplier": "-1"}}]),
                ram("h3", 2048),
            ],
            "conf": {"filter_scheduler.ram_weight_multiplier": 2.0},
            "request": {},
            "expect": [["h3", 1.0], ["h1", 0.5], ["h2", -1.0]],
        },
        "passed",
    ),
    (
        {
            "kind": "weigh",
            "weighers": ["RAMWeigher"],
            "hosts": [ram("h1", 1), ram("h2", 2)],
            "request": {},
            "expect": [["h1", 1.0], ["h2", 0.5]],
        },
        "failed",
    ),
)


@pytest.mark.parametrize(("case", "result"), CASES, ids=range(len(CASES)))
def test_a_case_passes_differs_or_cannot_be_decided(case: dict[str, Any], result: str) -> None:
    assert nova_cases.outcome(case)[0] == result, nova_cases.outcome(case)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_counted_and_a_difference_ends_with_1(
    packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cases.jsonl"
    text = "\n".join(json.dumps(case) for case, _ in CASES).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    assert nova_cases.main(path) == 1
    results = [result for _, result in CASES]
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last
        == f"{results.count('passed')} passed, {results.count('failed')} failed, {results.count('skipped')} skipped"
    )
    path.write_text("".join(json.dumps(case) + "\n" for case, result in CASES if result != "failed"))
    assert nova_cases.main(path) == 0
