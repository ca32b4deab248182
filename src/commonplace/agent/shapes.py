"""Simulated fleets: server sizes, how many of each, and the hosts they make.

A shape in one line, amounts in the unit its name says (`24vcpux4` oversubscribes CPUs four times),
shapes separated by commas, each with its count, or with its share of `--hosts`:

    24vcpu:48gb:1000gb*700      700 hosts of 24 vCPU, 48 GB of memory, 1000 GB of disk
    64vcpu:256gb,128vcpu:1tb*2  two large hosts; the rest as the first
    2x(16vcpu:64gb):1000gb      two NUMA cells of 16 vCPU and 64 GB each, and 1000 GB of disk
    2x(8vcpu+8pcpu:64gb:4gpux8) each with 8 dedicated CPUs too, and 4 GPUs (CUSTOM_GPU) given by eighths
    mixed                       a built-in mix
"""

import difflib
import random
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from commonplace.core.complaints import complaint
from commonplace.core.cpu_lists import CPUS_MAX, text_of
from commonplace.core.inventory_of_cells import inventory_of
from commonplace.core.records.fields import Labels, Traits
from commonplace.core.records.hosts import Device, HostCell
from commonplace.core.resources import AMOUNT_MAX, Amount, Inventory, ratio_thousandths
from commonplace.errors import UsageError
from commonplace.files import read_tree
from commonplace.words import counted

HOSTS_MAX = 1_000_000
"""Most hosts in one fleet: names have five digits up to 99,999 and grow after."""

CELLS_MAX = 16
HOSTS_PER_RACK = 20
RACKS_PER_ZONE = 50
MEMORY_MB_PER_GB = 1024


class Shape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server size. `count` hosts have it; where it is 0, the hosts left over are shared by `weight`."""

    vcpus: int
    memory_mb: int
    disk_gb: int = 0
    vcpu_ratio_thousandths: int = 1000
    count: int = 0
    weight: int = 1
    traits: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    cells: dict[str, HostCell] = {}

    def inventory(self) -> dict[str, Inventory]:
        """The shape in standard resource classes; no disk, no DISK_GB."""
        classes = {
            "VCPU": Inventory(total=self.vcpus, allocation_ratio_thousandths=self.vcpu_ratio_thousandths),
            "MEMORY_MB": Inventory(total=self.memory_mb),
        }
        classes = inventory_of(self.cells) | classes
        return classes | ({"DISK_GB": Inventory(total=self.disk_gb)} if self.disk_gb else {})


_AVX2 = ("HW_CPU_X86_AVX", "HW_CPU_X86_AVX2", "HW_CPU_X86_SSE42")
_AVX512 = (*_AVX2, "HW_CPU_X86_AVX512F", "HW_CPU_X86_AVX512VNNI")

MIXES: dict[str, tuple[Shape, ...]] = {
    "uniform": (Shape(vcpus=64, memory_mb=256 * 1024, disk_gb=2000, traits=_AVX2),),
    # a general-purpose generation, the one before it, memory-heavy servers, and a few large ones
    "mixed": (
        Shape(vcpus=64, memory_mb=256 * 1024, disk_gb=2000, weight=10, traits=_AVX2),
        Shape(vcpus=32, memory_mb=128 * 1024, disk_gb=1000, weight=5, traits=("HW_CPU_X86_AVX", "HW_CPU_X86_SSE42")),
        Shape(vcpus=48, memory_mb=768 * 1024, disk_gb=2000, weight=3, traits=_AVX2),
        Shape(vcpus=128, memory_mb=512 * 1024, disk_gb=4000, weight=2, traits=_AVX512),
    ),
}
"""Built-in mixes: servers as clouds rack them; weights, not counts, so that they scale to any number of hosts."""

SimulatedHost = tuple[str, dict[str, Inventory], tuple[str, ...], dict[str, str], dict[str, HostCell]]


def parse_shapes(spec: str) -> tuple[Shape, ...]:
    """Read a mix's name, a `.toml` or `.csv` file, or shapes in one line; UsageError says which part is wrong."""
    if spec in MIXES:
        return MIXES[spec]
    if spec.endswith((".toml", ".csv")):
        return load_shapes(Path(spec))
    return tuple(parse_shape(part) for part in spec.split(","))


_COUNT = re.compile(r"^(?P<amounts>.*?)(?:\*(?P<count>[1-9][0-9]{0,6}))?$")
_VCPUS = re.compile(r"^(?P<vcpus>[1-9][0-9]{0,5})(?:vcpus?|c)(?:x(?P<ratio>[0-9.]{1,8}))?$")
_BYTES = re.compile(r"^(?P<amount>[0-9]{1,7}(?:\.[0-9]{1,3})?)(?P<unit>mb|gb|tb)$")


def parse_shape(text: str) -> Shape:
    """Read `24vcpu:48gb[:1000gb][*700]`; `24vcpux4` oversubscribes CPUs four times."""
    whole = _COUNT.match(text.strip().lower())
    assert whole is not None  # every line matches: both parts may be anything or nothing
    if "(" in text:
        return _celled(whole["amounts"], int(whole["count"] or 0), text)
    parts = whole["amounts"].split(":")
    vcpus = _VCPUS.match(parts[0])
    if vcpus is None or len(parts) not in (2, 3):
        near = difflib.get_close_matches(text, MIXES, n=1)
        hint = f" (did you mean the mix {near[0]!r}?)" if near else f", or name a mix: {', '.join(MIXES)}"
        raise UsageError(f"host shape {text!r}: write VCPUS:MEMORY[:DISK][*COUNT], as in 24vcpu:48gb:1000gb*700{hint}")
    try:
        ratio = ratio_thousandths(vcpus["ratio"] or 1)
    except ValueError as error:
        raise UsageError(f"host shape {text!r}: {error}") from error
    return Shape(
        vcpus=int(vcpus["vcpus"]),
        memory_mb=_megabytes(parts[1], text, "memory"),
        disk_gb=_megabytes(parts[2], text, "disk") // MEMORY_MB_PER_GB if len(parts) == 3 else 0,
        vcpu_ratio_thousandths=ratio,
        count=int(whole["count"] or 0),
    )


_CELLED = re.compile(r"^(?P<cells>[1-9][0-9]?)x\((?P<cell>[^()]*)\)(?::(?P<disk>[^:]*))?$")
_CPUS = re.compile(
    r"^(?:(?P<vcpus>[1-9][0-9]{0,3})vcpus?(?:x(?P<ratio>[0-9.]{1,8}))?)?\+?(?:(?P<pcpus>[1-9][0-9]{0,3})pcpus?)?$"
)
_GPUS = re.compile(r"^(?P<gpus>[1-9][0-9]?)gpus?(?:x(?P<shares>[1-9][0-9]{0,3}))?$")


def _celled(amounts: str, count: int, text: str) -> Shape:
    """Read `2x(8vcpu+8pcpu:64gb:4gpux8):1000gb`: cells alike, cpus numbered through, dedicated ones after the shared ones of each."""
    whole = _CELLED.match(amounts)
    parts = whole["cell"].split(":") if whole else []
    cpus = _CPUS.match(parts[0]) if len(parts) in (2, 3) and parts[0] else None
    gpus = _GPUS.match(parts[2]) if len(parts) == 3 else None
    if whole is None or cpus is None or (len(parts) == 3 and gpus is None):
        form = "CELLSx(VCPUS[+PCPUS]:MEMORY[:GPUS])[:DISK], as in 2x(16vcpu:64gb) or 2x(8vcpu+8pcpu:64gb:4gpux8)"
        raise UsageError(f"host shape {text!r}: write {form}")
    try:
        ratio = ratio_thousandths(cpus["ratio"] or 1)
    except ValueError as error:
        raise UsageError(f"host shape {text!r}: {error}") from error
    number, shared, dedicated = int(whole["cells"]), int(cpus["vcpus"] or 0), int(cpus["pcpus"] or 0)
    if number > CELLS_MAX or number * (shared + dedicated) > CPUS_MAX:
        raise UsageError(f"host shape {text!r}: at most {CELLS_MAX} cells and {CPUS_MAX} cpus in all")
    memory_mb = _megabytes(parts[1], text, "memory")
    cells = {}
    for index in range(number):
        first = index * (shared + dedicated)
        devices = range(int(gpus["gpus"])) if gpus else ()
        cells[str(index)] = HostCell(
            cpus=text_of(range(first, first + shared)),
            cpus_dedicated=text_of(range(first + shared, first + shared + dedicated)),
            memory_mb=memory_mb,
            devices=tuple(
                Device(
                    id=f"gpu-{index}-{n}", resource_class="CUSTOM_GPU", shares=int(gpus["shares"] or 1) if gpus else 1
                )
                for n in devices
            ),
            socket=index,
        )
    return Shape(
        vcpus=number * shared,
        memory_mb=number * memory_mb,
        disk_gb=_megabytes(whole["disk"], text, "disk") // MEMORY_MB_PER_GB if whole["disk"] else 0,
        vcpu_ratio_thousandths=ratio,
        count=count,
        cells=cells,
    )


def _megabytes(part: str, text: str, what: str) -> int:
    match = _BYTES.match(part)
    amount = Decimal(match["amount"]) * {"mb": 1, "gb": 1024, "tb": 1024 * 1024}[match["unit"]] if match else Decimal(0)
    if amount < 1 or amount != int(amount):
        raise UsageError(
            f"host shape {text!r}: {what} {part!r} must be a whole number of megabytes, as in 48gb or 512mb"
        )
    return int(amount)


_Positive = Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]


class _ShapeRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A shape as written in a file."""

    vcpus: _Positive
    memory_mb: _Positive
    disk_gb: Amount = 0
    allocation_ratio: str | float | int = 1
    count: Amount = 0
    weight: _Positive = 1
    traits: Traits = ()
    labels: Labels = {}


def load_shapes(path: Path) -> tuple[Shape, ...]:
    """Read shapes from TOML (`[[shapes]]` tables) or CSV (a header of vcpus, memory_mb, disk_gb, count …).

    UsageError names the file and the table or line.
    """
    try:
        if path.suffix == ".csv":
            rows: list[tuple[str, Any]] = [(f"{path}: line {n}", row) for n, row in _csv_rows(path)]
        else:
            tables = read_tree(path).get("shapes", [])
            if not isinstance(tables, list):
                raise UsageError(f"{path}: shapes must be [[shapes]] tables, not {tables!r}")
            rows = [(f"{path}: [[shapes]] number {n}", table) for n, table in enumerate(tables, 1)]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error}") from error
    if not rows:
        raise UsageError(f"{path}: no shapes: write [[shapes]] tables with vcpus and memory_mb")
    return tuple(_shape(row, where) for where, row in rows)


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = path.read_text().splitlines()
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            cells = [cell.strip() for cell in line.split(",")]
            if len(cells) != len(header):
                raise UsageError(
                    f"{path}: line {number}: {counted(len(cells), 'column')}, the header has {len(header)}"
                )
            row: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
            if "traits" in row:
                row["traits"] = row["traits"].split()
            yield number, row


def _shape(row: object, where: str) -> Shape:
    try:
        read = msgspec.convert(row, _ShapeRow, strict=False)
        ratio = ratio_thousandths(read.allocation_ratio)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{where}: {complaint(str(error), 'it')}") from error
    return Shape(
        vcpus=read.vcpus,
        memory_mb=read.memory_mb,
        disk_gb=read.disk_gb,
        vcpu_ratio_thousandths=ratio,
        count=read.count,
        weight=read.weight,
        traits=read.traits,
        labels=read.labels,
    )


def hosts(n: int, shapes: tuple[Shape, ...], seed: int = 0) -> Iterator[SimulatedHost]:
    """`n` simulated hosts, (name, inventory, traits, labels, cells) each: the same for the same arguments.

    Counted shapes come as counted, the rest by weight, all in seeded order, so that a rack holds a mix. `n` 0 takes the
    counts as they stand. UsageError when counts and `n` disagree.
    """
    plan = _plan(n, shapes)
    random.Random(seed).shuffle(plan)
    inventories = {index: shape.inventory() for index, shape in enumerate(shapes)}
    for number, index in enumerate(plan, 1):
        rack, zone = _place(number)
        labels = {"zone": f"zone-{zone}", "rack": f"rack-{rack:03}"} | shapes[index].labels
        yield f"host-{number:05}", inventories[index], shapes[index].traits, labels, shapes[index].cells


def _place(number: int) -> tuple[int, int]:
    rack = (number - 1) // HOSTS_PER_RACK
    return rack + 1, rack // RACKS_PER_ZONE + 1


def _plan(n: int, shapes: tuple[Shape, ...]) -> list[int]:
    """One shape's index per host."""
    given = sum(shape.count for shape in shapes)
    n = n or given
    if not 1 <= n <= HOSTS_MAX:
        raise UsageError(f"{n} hosts: ask for 1 to {HOSTS_MAX} with --hosts, or give every shape a count")
    weighted = [index for index, shape in enumerate(shapes) if not shape.count]
    if given > n or (given < n and not weighted):
        raise UsageError(
            f"the shapes count {counted(given, 'host')}, --hosts says {n}: make them agree, or leave a count out"
        )
    plan = [index for index, shape in enumerate(shapes) for _ in range(shape.count)]
    rest, total = n - given, sum(shapes[index].weight for index in weighted)
    # largest remainders, so that every count is within one of its share and they add up
    shares = [(divmod(rest * shapes[index].weight, total), index) for index in weighted] if total else []
    left = rest - sum(whole for (whole, _), _ in shares)
    by_remainder = sorted(shares, key=lambda share: -share[0][1])
    extra = {index for _, index in by_remainder[:left]}
    for (whole, _), index in shares:
        plan += [index] * (whole + (index in extra))
    return plan
