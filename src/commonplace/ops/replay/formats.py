"""Traces that can be replayed: each format turns a row into an `Arrival` in whole units.

Formats differ in three things only: the columns, how a row becomes an arrival, and which servers it was recorded on.
docs/replay.md has the columns, the units, and what each conversion rounds.
"""

import csv
import difflib
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path

from msgspec import Struct

from commonplace.core.records.control import CellAsk
from commonplace.core.resources import AMOUNT_MAX
from commonplace.errors import UsageError
from commonplace.words import counted

FLAVORS_MAX = 512
"""Most distinct shapes in a trace: each becomes a flavor, and a replica keeps a row of scores for each."""

ROWS_MAX = 10_000_000
"""Most rows replayed: ids are kept to refuse a second use, some 100 bytes each."""

CELLS_MAX = 16
SECONDS_PER_DAY = 86_400


class TraceError(UsageError):
    """A trace can't be read; the message names file, line and column."""


class Arrival(Struct, frozen=True, kw_only=True, gc=False):
    """One VM of a trace. `at_s` counts from the trace's own zero; `lifetime_s` None: still there when the trace ends.

    `strategy` "anti-affinity" keeps the VMs of `group` on hosts of their own, "affinity" on one host; `domain` names the fault domain whose
    hosts it is kept on; `ignored` names what the row asks for and a request can't say.
    """

    id: str
    at_s: float
    flavor: str
    resources: dict[str, int]
    lifetime_s: float | None = None
    project: str = ""
    group: str = ""
    strategy: str = ""
    cells: tuple[CellAsk, ...] = ()
    domain: str = ""
    ignored: tuple[str, ...] = ()


class Row:
    """One row, asked by column; what can't be meant becomes a TraceError that names the place."""

    __slots__ = ("_cells", "_columns", "line", "path")

    def __init__(self, path: Path, columns: Mapping[str, int]) -> None:
        self.path = path
        self.line = 0
        self._columns = columns
        self._cells: list[str] = []

    def take(self, line: int, cells: list[str]) -> None:
        """Become the row of this line."""
        if len(cells) != len(self._columns):
            raise TraceError(
                f"{self.path}: line {line}: {counted(len(cells), 'column')}, the header has {len(self._columns)}"
            )
        self.line, self._cells = line, cells

    def text(self, column: str) -> str:
        """The cell as it stands, "" where the file has no such column."""
        at = self._columns.get(column, -1)
        return self._cells[at] if at >= 0 else ""

    def number(self, column: str) -> Decimal:
        """The cell as an exact number."""
        text = self.text(column)
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal("NaN")
        # compare before use: a NaN compares with nothing, an exponent can stand for a billion digits
        if not number.is_finite() or number.copy_abs() > AMOUNT_MAX:
            raise self.error(column, f"{text!r} is not a number")
        return number

    def amount(self, column: str, scale: Decimal | int = 1) -> int:
        """The cell times `scale` as a positive whole amount, rounded up: nobody gets less than they asked for."""
        number = self.number(column)
        if number <= 0:
            raise self.error(column, f"{self.text(column)!r} must be above 0")
        return int((number * scale).to_integral_value(ROUND_CEILING))

    def seconds(self, column: str) -> float | None:
        """The cell as a time or duration, None where it is empty or infinite."""
        return None if self.text(column) in ("", "inf") else float(self.number(column))

    def error(self, column: str, says: str) -> TraceError:
        """An error of this cell."""
        return TraceError(f"{self.path}: line {self.line}: column {column}: {says}")


class Format(Struct, frozen=True, kw_only=True):
    """How to read one kind of trace. `host_shape` is the kind of server that `--host-shape` defaults to."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    arrival: Callable[[Row], Arrival]
    host_shape: str


# --- formats --------------------------------------------------------------------------------------------------------


def _azure_v1(row: Row) -> Arrival:
    resources = {"VCPU": row.amount("vcpus"), "MEMORY_MB": row.amount("ram_gb", 1024)}
    at = row.seconds("arrival_s")
    if at is None:
        raise row.error("arrival_s", "is empty")
    bounds = [bound for bound in (row.seconds("dur_lo_s"), row.seconds("dur_hi_s")) if bound is not None]
    return Arrival(
        id=row.text("vm_id"),
        at_s=at,
        flavor=f"az-{row.text('flavor')}",
        resources=resources,
        lifetime_s=sum(bounds) / len(bounds) if bounds else None,
        project=f"batch-{row.text('batch_id')}",
    )


def _azure_2020(row: Row) -> Arrival:
    # 100 cores are 1 vCPU and 8 ram are 1 GB. VCPU counts whole CPUs, so fractions round up (docs/replay.md: 2 %).
    resources = {
        "VCPU": row.amount("cores", Decimal("0.01")),
        "MEMORY_MB": row.amount("ram", 128),
    }
    start, end = row.seconds("starttime"), row.seconds("endtime")
    if start is None:
        raise row.error("starttime", "is empty")
    start = max(0.0, start)  # before the trace: alive when it starts
    return Arrival(
        id=row.text("vmId"),
        at_s=start * SECONDS_PER_DAY,
        flavor=shape_name("v2", resources),
        resources=resources,
        lifetime_s=None if end is None else (end - start) * SECONDS_PER_DAY,
        project=row.text("tenantId"),
        ignored=("priority",) if row.text("vmTypeId") == "1" else (),
    )


def _huawei(row: Row) -> Arrival:
    resources = {"VCPU": row.amount("flavor_vcpus"), "MEMORY_MB": row.amount("flavor_ram", 1024)}
    cells, strategy = _numa(row, resources), row.text("strategy")
    kept = strategy in STRATEGIES and bool(row.text("group"))
    domain = f"fault-domain-{int(row.number('domain'))}" if strategy == "fault_domain" and row.text("domain") else ""
    wants = [f"strategy {strategy}"] if strategy and not (kept or domain) else []
    wants += ["group"] if row.text("group") and not (kept or domain) else []
    wants += ["domain"] if row.text("domain") and not domain else []
    return Arrival(
        id=str(row.line - 1),
        at_s=float(row.line - 2),  # the trace has an order and no times: one a second
        flavor=shape_name("hw", resources) + (f"-n{len(cells)}" if cells else ""),
        resources=resources,
        group=f"hw-{strategy}-{row.text('group')}" if kept else "",
        strategy=strategy if kept else "",
        cells=cells,
        domain=domain,
        ignored=tuple(wants),
    )


def _numa(row: Row, resources: Mapping[str, int]) -> tuple[CellAsk, ...]:
    """As many cells as the row says, alike; what does not divide is rounded up in each and refused in sum, so it is an error."""
    if row.text("numa") in ("", "0"):
        return ()
    number = row.amount("numa")
    if number > CELLS_MAX or any(amount % number for amount in resources.values()):
        raise row.error("numa", f"{row.text('numa')!r} cells: at most {CELLS_MAX}, and vcpus and ram must divide by it")
    return (CellAsk(cpus=resources["VCPU"] // number, memory_mb=resources["MEMORY_MB"] // number),) * number


STRATEGIES = ("anti-affinity", "affinity")


def _csv(row: Row) -> Arrival:
    resources = {"VCPU": row.amount("vcpus"), "MEMORY_MB": row.amount("memory")}
    for column, name in (("vcpus", "VCPU"), ("memory", "MEMORY_MB")):
        if row.number(column) != resources[name]:
            raise row.error(column, f"{row.text(column)!r} is not a whole number")
    if row.text("disk") not in ("", "0"):
        resources["DISK_GB"] = row.amount("disk")
    at = row.seconds("arrival")
    if at is None:
        raise row.error("arrival", "is empty")
    strategy = row.text("strategy")
    if strategy and not row.text("group"):
        raise row.error("group", f"is empty, but the strategy is {strategy!r}")
    return Arrival(
        id=row.text("id"),
        at_s=at,
        flavor=shape_name("csv", resources),
        resources=resources,
        lifetime_s=row.seconds("lifetime"),
        project=row.text("project"),
        group=row.text("group"),
        strategy=strategy if strategy in STRATEGIES else "",
        ignored=(f"strategy {strategy}",) if strategy and strategy not in STRATEGIES else (),
    )


FORMATS: Mapping[str, Format] = {
    "azure-v1": Format(
        required=("vm_id", "arrival_s", "batch_id", "flavor", "vcpus", "ram_gb", "dur_lo_s", "dur_hi_s"),
        optional=("censored",),
        arrival=_azure_v1,
        host_shape="24vcpu:48gb",
    ),
    "azure-2020": Format(
        required=("vmId", "tenantId", "cores", "ram", "vmTypeId", "starttime", "endtime"),
        arrival=_azure_2020,
        host_shape="64vcpu:256gb",
    ),
    "huawei": Format(
        required=("flavor_vcpus", "flavor_ram", "numa", "strategy", "group", "domain"),
        arrival=_huawei,
        host_shape="2x(64vcpu:192gb)",
    ),
    "csv": Format(
        required=("id", "arrival", "vcpus", "memory"),
        optional=("disk", "lifetime", "project", "group", "strategy"),
        arrival=_csv,
        host_shape="64vcpu:256gb:2000gb",
    ),
}


def shape_name(prefix: str, resources: Mapping[str, int]) -> str:
    """A flavor's name from its shape: `v2-c2-m3584`."""
    disk = f"-d{resources['DISK_GB']}" if "DISK_GB" in resources else ""
    return f"{prefix}-c{resources['VCPU']}-m{resources['MEMORY_MB']}{disk}"


# --- reading --------------------------------------------------------------------------------------------------------

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,99}\Z")
_GZIP_MAGIC = b"\x1f\x8b"


def read(path: Path, form: str, limit: int = 0) -> Iterator[Arrival]:
    """The arrivals of a trace, plain or gzip, as they are read; the first `limit` of them where it is above 0.

    TraceError names file, line and column of the first row that can't be meant, or that goes back in time.
    """
    kind = FORMATS[form]
    try:
        with _open(path) as lines:
            rows = csv.reader(lines)
            row = Row(path, _columns(path, form, kind, next(rows, [])))
            yield from _arrivals(row, rows, kind, limit)
    except OSError as error:  # gzip's errors are OSErrors too
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


def _arrivals(row: Row, rows: Iterator[list[str]], kind: Format, limit: int) -> Iterator[Arrival]:
    latest, count = float("-inf"), 0
    for line, cells in enumerate(rows, 2):
        if not cells:
            continue
        row.take(line, cells)
        arrival = kind.arrival(row)
        _check(row, kind, arrival, latest)
        yield arrival
        latest, count = arrival.at_s, count + 1
        if count == limit:
            return
        if count == ROWS_MAX:
            raise TraceError(f"{row.path}: line {line}: more than {ROWS_MAX} rows: use --limit")


def _check(row: Row, kind: Format, arrival: Arrival, latest: float) -> None:
    if not _ID.match(arrival.id):
        says = "must be 1 to 100 letters, digits and ._:@+- and begin with a letter or digit"
        raise row.error(kind.required[0], f"{arrival.id!r} {says}")
    if arrival.at_s < latest:
        raise TraceError(
            f"{row.path}: line {row.line}: arrives at {arrival.at_s:g} s, before the row above ({latest:g} s): "
            "sort the file by arrival"
        )
    if arrival.lifetime_s is not None and arrival.lifetime_s < 0:
        raise TraceError(f"{row.path}: line {row.line}: ends {-arrival.lifetime_s:g} s before it arrives")


def _columns(path: Path, form: str, kind: Format, header: list[str]) -> dict[str, int]:
    header = [name.strip() for name in header]
    known = (*kind.required, *kind.optional)
    for name in kind.required:
        if name not in header:
            near = difflib.get_close_matches(",".join(header), [",".join(f.required) for f in FORMATS.values()], n=1)
            like = next((other for other, f in FORMATS.items() if near and ",".join(f.required) == near[0]), form)
            hint = f"; it looks like --format {like}" if like != form else f"; --format {form} reads {', '.join(known)}"
            raise TraceError(f"{path}: line 1: no column {name!r}{hint}")
    for name in header:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise TraceError(f"{path}: line 1: unknown column {name!r}; the nearest known is {near[0]!r}")
        if header.count(name) > 1:
            raise TraceError(f"{path}: line 1: column {name!r} is there twice")
    return {name: at for at, name in enumerate(header)}


def _open(path: Path) -> io.TextIOBase:
    with path.open("rb") as head:
        packed = head.read(2) == _GZIP_MAGIC
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


class Survey(Struct, frozen=True, kw_only=True):
    """What a trace holds, known before anything is sent; `together` has the VMs of groups that stay on one host, by flavor."""

    arrivals: int
    first_s: float
    last_s: float
    flavors: dict[str, dict[str, int]]
    cells: dict[str, tuple[CellAsk, ...]]
    domains: Counter[str]
    together: dict[str, Counter[str]]
    requested: Counter[str]
    ignored: Counter[str]


def survey(path: Path, form: str, limit: int = 0) -> Survey:
    """Read a trace once through: its flavors, its length, and every error in it before a request is sent."""
    flavors: dict[str, dict[str, int]] = {}
    cells: dict[str, tuple[CellAsk, ...]] = {}
    domains: Counter[str] = Counter()
    together: dict[str, Counter[str]] = {}
    requested: Counter[str] = Counter()
    ignored: Counter[str] = Counter()
    ids: set[str] = set()
    first = last = 0.0
    for number, arrival in enumerate(read(path, form, limit), 1):
        shape = flavors.setdefault(arrival.flavor, arrival.resources)
        if shape != arrival.resources:
            raise TraceError(f"{path}: VM {arrival.id}: flavor {arrival.flavor} is {arrival.resources}, before {shape}")
        if len(flavors) > FLAVORS_MAX:
            raise TraceError(f"{path}: VM {arrival.id}: more than {FLAVORS_MAX} distinct shapes: round the sizes")
        ids.add(arrival.id)
        if len(ids) < number:
            raise TraceError(f"{path}: VM {arrival.id}: the id is used twice")
        if arrival.cells:
            cells[arrival.flavor] = arrival.cells
        domains.update([arrival.domain] if arrival.domain else ())
        if arrival.strategy == "affinity":
            together.setdefault(arrival.group, Counter())[arrival.flavor] += 1
        requested[arrival.flavor] += 1
        ignored.update(arrival.ignored)
        first, last = (first if number > 1 else arrival.at_s), arrival.at_s
    if not ids:
        raise TraceError(f"{path}: no rows below the header: nothing to replay")
    return Survey(
        arrivals=len(ids),
        first_s=first,
        last_s=last,
        flavors=flavors,
        cells=cells,
        domains=domains,
        together=together,
        requested=requested,
        ignored=ignored,
    )
