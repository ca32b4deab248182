"""One host as far as the log was read, and the keys of the hosts topic."""

from commonplace.ops.audit.evidence import Entry
from commonplace.ops.audit.settle import Lease
from commonplace.ops.audit.state import View
from commonplace.ops.audit.wire_hosts import Delta, Snapshot, Start

FAR_MS = 1 << 62


class Chain:
    """One host as far as the log was read. `view` is None while its state is unknown; `blind` says what happened since the last report."""

    __slots__ = (
        "base", "base_generation", "blind", "claims_through", "claims_topic", "due_ms", "epoch", "fresh", "generation", "gone", "hash",
        "leases", "name", "offset", "partition", "removed", "started_ms", "view",
    )  # fmt: skip

    def __init__(self, name: str, partition: int, view: View | None) -> None:
        self.name, self.partition = name, partition
        self.epoch, self.generation, self.base_generation = -1, -1, -1
        self.hash = ""
        self.fresh = False  # no report of this epoch yet
        self.removed = False
        self.base: View | None = None
        self.view = view
        self.blind = ""
        self.gone = 0
        self.offset = -1
        self.claims_topic, self.claims_through = "", -1
        self.leases: dict[str, Lease] = {}
        self.due_ms = FAR_MS
        self.started_ms = 0  # log time of the epoch's start record, where it is known

    def follow(self, record: Snapshot | Delta, offset: int, gone: int, view: View | None) -> None:
        """Go on to a report that was judged; None: its state is not known."""
        self.generation, self.hash, self.offset, self.gone, self.fresh = (
            record.generation,
            record.hash,
            offset,
            gone,
            False,
        )
        self.claims_topic, self.claims_through = record.claims_topic, record.claims_through
        self.view = self.view if view is None else view
        self.blind = "a report without its snapshot lies between" if view is None else ""

    def forget(self) -> None:
        """The host was taken out by an operator: it holds nothing, and that is known."""
        self.view, self.base, self.blind, self.leases, self.due_ms, self.removed = View(), None, "", {}, FAR_MS, True

    def open(self, epoch: int, started_ms: int = 0) -> None:
        """Begin an epoch: no delta can rest on a snapshot that it has not sent."""
        self.started_ms = started_ms
        self.epoch, self.generation, self.base_generation, self.base, self.fresh, self.removed = (
            epoch,
            -1,
            -1,
            None,
            True,
            False,
        )


def parse_key(key: bytes | None) -> tuple[str, str, int]:
    """Host, kind (`start`, `snapshot`, `delta`, or "" for no key of this topic) and epoch."""
    try:
        host, _, rest = (key or b"").decode("ascii").partition("/")
    except UnicodeDecodeError:
        return "", "", -1
    if rest == "start":
        return host, "start", -1
    epoch, slash, last = rest.partition("/")
    if not epoch.isdecimal() or len(epoch) > 16 or (slash and last != "delta"):
        return host, "", -1
    return host, "delta" if slash else "snapshot", int(epoch)


def disagreement(entry: Entry, record: Start | Snapshot | Delta, host: str, kind: str, epoch: int) -> str:
    """How a record contradicts its key, or ""."""
    if record.host != host:
        return f"its key is of host {host}, the record of {record.host}"
    if isinstance(record, Start):
        return "" if kind == "start" else f"a start record under the key of a {kind}"
    if kind != ("snapshot" if isinstance(record, Snapshot) else "delta") or record.epoch != epoch:
        return f"a report of epoch {record.epoch} under the key of {kind} {epoch}"
    return "" if record.epoch < entry.offset else f"its epoch {record.epoch} is not below its own offset"
