"""Traces: what each format means, the order of their events, and what is said of a bad file."""

import gzip
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonplace.core.records.control import CellAsk
from commonplace.ops.replay.formats import FORMATS, Arrival, TraceError, read, survey
from commonplace.ops.replay.samples import HEADERS, sample
from commonplace.ops.replay.schedule import Arrive, Depart, events
from commonplace.ops.replay.together import Shape, Vm, keepable


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def only(path: Path, form: str, row: str) -> Arrival:
    (arrival,) = read(write(path / "trace.csv", HEADERS[form], row), form)
    return arrival


def test_azure_v1_takes_the_middle_of_the_bounds(tmp_path: Path) -> None:
    assert only(tmp_path, "azure-v1", "7,1800000,3,b,1,1.75,3900,7200,0") == Arrival(
        id="7",
        at_s=1_800_000,
        flavor="az-b",
        resources={"VCPU": 1, "MEMORY_MB": 1792},
        lifetime_s=5550,
        project="batch-3",
    )


@pytest.mark.parametrize(("bounds", "lifetime"), [(",", None), ("300,", 300), (",900", 900), ("0,0", 0)])
def test_azure_v1_with_unknown_bounds(tmp_path: Path, bounds: str, lifetime: float | None) -> None:
    assert only(tmp_path, "azure-v1", f"7,0,3,b,1,1.75,{bounds},0").lifetime_s == lifetime


@pytest.mark.parametrize(("cores", "vcpus"), [("2.0", 1), ("100.0", 1), ("264.0", 3), ("1600.0", 16)])
def test_azure_2020_rounds_fractions_of_a_core_up(tmp_path: Path, cores: str, vcpus: int) -> None:
    arrival = only(tmp_path, "azure-2020", f"7,9,{cores},7.0,1,0.5,1.5")
    assert arrival.resources == {"VCPU": vcpus, "MEMORY_MB": 896}
    assert (arrival.flavor, arrival.project, arrival.ignored) == (f"v2-c{vcpus}-m896", "9", ("priority",))
    assert (arrival.at_s, arrival.lifetime_s) == (43_200, 86_400)


def test_azure_2020_alive_at_the_start_arrives_at_zero(tmp_path: Path) -> None:
    arrival = only(tmp_path, "azure-2020", "7,9,100,8,0,-1497.0,2.0")
    assert (arrival.at_s, arrival.lifetime_s) == (0, 172_800)
    assert only(tmp_path, "azure-2020", "7,9,100,8,0,-1497.0,inf").lifetime_s is None


def test_huawei_keeps_cells_affinity_anti_affinity_and_fault_domains(tmp_path: Path) -> None:
    arrival = only(tmp_path, "huawei", "8,16,2,affinity,3.0,")
    assert (arrival.flavor, arrival.resources) == ("hw-c8-m16384-n2", {"VCPU": 8, "MEMORY_MB": 16384})
    assert arrival.cells == (CellAsk(cpus=4, memory_mb=8192),) * 2
    assert (arrival.group, arrival.strategy, arrival.ignored) == ("hw-affinity-3.0", "affinity", ())
    alone = only(tmp_path, "huawei", "8,16,1,anti-affinity,3.0,")
    assert (alone.flavor, alone.cells) == ("hw-c8-m16384-n1", (CellAsk(cpus=8, memory_mb=16384),))
    assert (alone.group, alone.strategy, alone.ignored) == ("hw-anti-affinity-3.0", "anti-affinity", ())
    apart = only(tmp_path, "huawei", "8,16,1,fault_domain,3.0,2.0")
    assert (apart.domain, apart.group, apart.ignored) == ("fault-domain-2", "", ())


@pytest.mark.parametrize("row", ["7,16,2,,,", "8,16,17,,,", "8,16,-1,,,"])
def test_huawei_cells_that_cannot_be_alike_are_refused_with_their_place(tmp_path: Path, row: str) -> None:
    with pytest.raises(TraceError, match="line 2: column numa"):
        only(tmp_path, "huawei", row)


def test_csv_says_everything_in_our_own_units(tmp_path: Path) -> None:
    assert only(tmp_path, "csv", "vm-1,60,2,4096,20,600,p1,g1,anti-affinity") == Arrival(
        id="vm-1",
        at_s=60,
        flavor="csv-c2-m4096-d20",
        resources={"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 20},
        lifetime_s=600,
        project="p1",
        group="g1",
        strategy="anti-affinity",
    )
    together = only(tmp_path, "csv", "vm-1,60,2,4096,,,,g1,affinity")
    assert (together.group, together.strategy, together.ignored) == ("g1", "affinity", ())
    assert only(tmp_path, "csv", "vm-1,60,2,4096,,,,g1,near").ignored == ("strategy near",)


def test_groups_that_stay_together_are_told_with_their_vms(tmp_path: Path) -> None:
    rows = ("8,16,2,affinity,3.0,", "8,16,2,affinity,3.0,", "2,4,1,affinity,3.0,", "2,4,1,affinity,5.0,", "2,4,1,,,")
    found = survey(write(tmp_path / "t.csv", "flavor_vcpus,flavor_ram,numa,strategy,group,domain", *rows), "huawei")
    assert found.together == {
        "hw-affinity-3.0": {"hw-c8-m16384-n2": 2, "hw-c2-m4096-n1": 1},
        "hw-affinity-5.0": {"hw-c2-m4096-n1": 1},
    }


def cells(number: int, cpus: int, memory_mb: int) -> tuple[CellAsk, ...]:
    return (CellAsk(cpus=cpus // number, memory_mb=memory_mb // number),) * number


VMS = {
    "wide": Vm({"VCPU": 8, "MEMORY_MB": 800}, cells(2, 8, 800)),
    "small": Vm({"VCPU": 3, "MEMORY_MB": 100}, cells(1, 3, 100)),
    "fat": Vm({"VCPU": 1, "MEMORY_MB": 900}, cells(1, 1, 900)),
}
TWO_CELLS = Shape((("MEMORY_MB", 2000), ("VCPU", 16)), ((8, 1000), (8, 1000)))
NO_CELLS = Shape(TWO_CELLS.capacity, ())


@pytest.mark.parametrize(
    ("members", "shape", "kept"),
    [
        ({"wide": 2}, TWO_CELLS, True),
        ({"wide": 3}, TWO_CELLS, False),
        ({"small": 4}, TWO_CELLS, True),
        ({"small": 5}, TWO_CELLS, False),  # 15 of 16 cpus, and 6 of 8 in each cell
        ({"small": 5}, NO_CELLS, True),
        ({"wide": 1, "fat": 1}, TWO_CELLS, False),  # 400 MB of each cell are taken
        ({"wide": 1, "fat": 1}, NO_CELLS, True),
        ({"wide": 1}, Shape(TWO_CELLS.capacity, ((16, 2000),)), False),
    ],
)
def test_a_group_is_kept_together_where_an_empty_host_holds_it(
    members: dict[str, int], shape: Shape, kept: bool
) -> None:
    assert bool(keepable({"g": Counter(members)}, VMS, [Shape((), ()), shape])) is kept


def test_csv_needs_only_its_four_first_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "memory,id,vcpus,arrival", "512,a,1,0")
    assert [arrival.resources for arrival in read(path, "csv")] == [{"VCPU": 1, "MEMORY_MB": 512}]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_gzip_and_plain_read_the_same_and_a_limit_ends_early(tmp_path: Path, form: str) -> None:
    lines = list(sample(form, 50, seed=1))
    plain = write(tmp_path / "plain", *lines)
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    arrivals = list(read(plain, form))
    assert len(arrivals) == 50
    assert list(read(packed, form)) == arrivals
    assert list(read(plain, form, limit=7)) == arrivals[:7]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_survey_counts_what_reading_gives(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "t.csv", *sample(form, 80))
    found, arrivals = survey(path, form), list(read(path, form))
    assert found.arrivals == found.requested.total() == 80
    assert found.flavors == {arrival.flavor: arrival.resources for arrival in arrivals}
    assert (found.first_s, found.last_s) == (arrivals[0].at_s, arrivals[-1].at_s)


CSV = "id,arrival,vcpus,memory,disk,lifetime,project,group,strategy"


@pytest.mark.parametrize(
    ("form", "lines", "says"),
    [
        ("csv", [], "line 1: no column 'id'"),
        ("csv", [CSV], "no rows below the header"),
        ("csv", [HEADERS["huawei"], "1,2,1,,,"], "it looks like --format huawei"),
        ("csv", [f"{CSV},vcpu", ""], "line 1: unknown column 'vcpu'; the nearest known is 'vcpus'"),
        ("csv", ["id,arrival,vcpus,memory,id", ""], "column 'id' is there twice"),
        ("csv", [CSV, "a,0,1,512,,,,,", "b,0,1"], "line 3: 3 columns, the header has 9"),
        ("csv", [CSV, "a,0,x,512,,,,,"], "line 2: column vcpus: 'x' is not a number"),
        ("csv", [CSV, "a,0,NaN,512,,,,,"], "column vcpus: 'NaN' is not a number"),
        ("csv", [CSV, "a,0,1e999999999,512,,,,,"], "column vcpus: '1e999999999' is not a number"),
        ("csv", [CSV, "a,0,-1,512,,,,,"], "column vcpus: '-1' must be above 0"),
        ("csv", [CSV, "a,0,1.5,512,,,,,"], "column vcpus: '1.5' is not a whole number"),
        ("csv", [CSV, "a,0,1,0,,,,,"], "column memory: '0' must be above 0"),
        ("csv", [CSV, "a,,1,512,,,,,"], "column arrival: is empty"),
        ("csv", [CSV, "a b,0,1,512,,,,,"], "column id: 'a b' must be"),
        ("csv", [CSV, "a,5,1,512,,,,,", "b,4,1,512,,,,,"], "line 3: arrives at 4 s, before the row above"),
        ("csv", [CSV, "a,5,1,512,,-1,,,"], "line 2: ends 1 s before it arrives"),
        ("csv", [CSV, "a,5,1,512,,,,,", "a,5,1,512,,,,,"], "VM a: the id is used twice"),
        ("csv", [CSV, "a,5,1,512,,,,,anti-affinity"], "column group: is empty"),
        ("azure-v1", [HEADERS["azure-v1"], "0,0,0,b,1,1,,,0", "1,0,0,b,2,1,,,0"], "VM 1: flavor az-b is"),
        ("azure-2020", [HEADERS["azure-2020"], "1,1,100,8,0,2.0,1.0"], "line 2: ends 86400 s before"),
    ],
)
def test_a_bad_trace_is_refused_with_its_place(tmp_path: Path, form: str, lines: list[str], says: str) -> None:
    path = write(tmp_path / "trace.csv", *lines)
    with pytest.raises(TraceError) as raised:
        survey(path, form)
    assert str(raised.value).startswith(f"{path}: ")
    assert says in str(raised.value)


TORN = gzip.compress(b"id,arrival", mtime=0)[:10] + b"\xff" * 8


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", gzip.compress(b"id,arrival", mtime=0)[:-6], TORN])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "trace.csv.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TraceError, match="cannot be read"):
        survey(path, "csv")


def test_too_many_distinct_shapes_are_refused(tmp_path: Path) -> None:
    rows = [f"v{n},0,{n},512,,,,," for n in range(1, 600)]
    with pytest.raises(TraceError, match="more than 512 distinct shapes"):
        survey(write(tmp_path / "t.csv", CSV, *rows), "csv")


# --- order ----------------------------------------------------------------------------------------------------------


def vm(name: str, at_s: float, lifetime_s: float | None = None) -> Arrival:
    return Arrival(id=name, at_s=at_s, lifetime_s=lifetime_s, flavor="f", resources={"VCPU": 1})


def order(arrivals: Iterable[Arrival], *, tail: bool = True) -> list[str]:
    """Events as `+name` and `-name`."""
    return [f"+{e.arrival.id}" if isinstance(e, Arrive) else f"-{e.id}" for e in events(arrivals, tail=tail)]


def test_what_leaves_at_a_moment_makes_room_for_what_comes_at_it() -> None:
    assert order([vm("a", 0, 300), vm("b", 300)]) == ["+a", "-a", "+b"]


def test_a_vm_that_lives_for_no_time_leaves_after_all_that_came_with_it() -> None:
    assert order([vm("a", 0, 0), vm("b", 0), vm("c", 1)]) == ["+a", "+b", "-a", "+c"]


def test_departures_at_one_moment_keep_the_order_of_arrival() -> None:
    assert order([vm("b", 0, 10), vm("a", 5, 5), vm("c", 10)]) == ["+b", "+a", "-b", "-a", "+c"]


def test_departures_after_the_last_arrival_can_be_left_out() -> None:
    arrivals = [vm("a", 0, 5), vm("b", 1, 1), vm("c", 2)]
    assert order(arrivals) == ["+a", "+b", "-b", "+c", "-a"]
    assert order(arrivals, tail=False) == ["+a", "+b", "-b", "+c"]


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 20)), max_size=40))
def test_time_never_goes_back_and_each_vm_comes_before_it_goes(vms: list[tuple[int, int | None]]) -> None:
    arrivals = [vm(str(n), at, lifetime) for n, (at, lifetime) in enumerate(sorted(vms, key=lambda one: one[0]))]
    sequence = list(events(arrivals))
    assert [event.at_s for event in sequence] == sorted(event.at_s for event in sequence)
    come: set[str] = set()
    gone: list[str] = []
    for event in sequence:
        if isinstance(event, Arrive):
            come.add(event.arrival.id)
        else:
            assert isinstance(event, Depart)
            assert event.id in come
            gone.append(event.id)
    assert sorted(gone) == sorted(arrival.id for arrival in arrivals if arrival.lifetime_s is not None)
