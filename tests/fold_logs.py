"""Logs of `hosts` as agents write them: real ledgers, restarts, zombies, tombstones, garbage; and what compaction leaves of them."""

from random import Random

from commonplace.core.codec import encode
from commonplace.core.host_keys import delta_key, parse_key, snapshot_key, start_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Configure, Found, Gone, Lapse, Taken, Up
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.hosts import Allocation, Start
from commonplace.core.resources import Inventory
from world import Raw

MOVES = ("claim", "claim", "confirm", "release", "lapse", "up", "found", "gone", "configure", "delta", "delta", "snapshot",
         "restart", "zombie", "bad", "forget", "tombstones")  # fmt: skip


class Writer:
    """The agents of one host, one after another, writing its log. A move that makes no sense at the moment does nothing."""

    def __init__(self, host: str, log: list[Raw], random: Random) -> None:
        self.host, self.log, self.random = host, log, random
        self.ledger: Ledger | None = None
        self.old: list[Ledger] = []
        self.sent_base = False
        self.claims = 0
        self.reported: tuple[int, dict[str, Allocation]] = (
            0,
            {},
        )  # hash and allocations of the current epoch's last report
        self.move("restart")
        self.move("snapshot")

    def append(self, key: bytes, value: bytes | None) -> int:
        offset = self.log[-1][0] + 1 if self.log else 0
        self.log.append((offset, 1_000 + offset, key, value))
        return offset

    def move(self, name: str) -> None:
        getattr(self, "_" + name)()

    def _one(self, state: str = "") -> str | None:
        assert self.ledger is not None
        ids = [a.id for a in self.ledger.allocations.values() if not state or a.state == state]
        return self.random.choice(ids) if ids else None

    def _take(self, record: Claim | Confirm | Release) -> None:
        assert self.ledger is not None
        self.claims += 1
        offset = max(self.claims, self.ledger.claims_through + 1)
        self.ledger.receive(Taken(offset, 1_000, record), 0)

    def _claim(self) -> None:
        self.claims += 1
        random = self.random
        resources = {"VCPU": random.randint(1, 3), "MEMORY_MB": random.choice((0, 512, 1024))}
        if random.random() < 0.2:
            resources["CUSTOM_GPU"] = 1
        allocation = Allocation(
            id=f"{self.host}-{self.claims}",
            request=f"q{self.claims}",
            group=random.choice(("", "g", "k")),
            resources=resources,
        )
        self._take(
            Claim(host=self.host, request=f"q{self.claims}", mode="fits", lease_ms=1_000, allocations=[allocation])
        )

    def _confirm(self) -> None:
        if one := self._one("leased"):
            self._take(Confirm(host=self.host, request="q", allocation=one))

    def _release(self) -> None:
        if one := self._one():
            self._take(Release(host=self.host, request="q", allocation=one))

    def _lapse(self) -> None:
        if self.ledger and (one := self._one("leased")):
            self.ledger.receive(Lapse(one, 10**9), 10**9)

    def _up(self) -> None:
        if self.ledger and (one := self._one("active")):
            self.ledger.receive(Up(one), 0)

    def _found(self) -> None:
        if self.ledger:
            self.ledger.receive(
                Found(instance=f"i{self.random.randint(0, 2)}", resources={"VCPU": 1, "CUSTOM_GPU": 1}), 0
            )

    def _gone(self) -> None:
        if self.ledger:
            self.ledger.receive(Gone(f"i{self.random.randint(0, 2)}"), 0)

    def _configure(self) -> None:
        random = self.random
        assert self.ledger is not None
        inventory = {
            "VCPU": Inventory(total=random.randint(0, 16), allocation_ratio_thousandths=random.choice((1000, 1500))),
            "MEMORY_MB": Inventory(total=8192, reserved=random.choice((0, 512)), step_size=random.choice((1, 512))),
        }
        if random.random() < 0.4:
            inventory["CUSTOM_GPU"] = Inventory(total=random.randint(0, 4), max_unit=random.choice((0, 1)))
        traits = tuple(t for t in ("CUSTOM_A", "CUSTOM_B") if random.random() < 0.5)
        status = random.choice(("enabled", "enabled", "draining"))
        self.ledger.receive(Configure(inventory, traits, {"zone": random.choice("xy")}, status), 0)  # type: ignore[arg-type]

    def _delta(self) -> None:
        if self.ledger and self.sent_base:
            self.append(delta_key(self.host, self.ledger.epoch), encode(self.ledger.delta()))
            self.reported = (self.ledger.hash, dict(self.ledger.allocations))

    def _snapshot(self) -> None:
        if self.ledger:
            self.append(snapshot_key(self.host, self.ledger.epoch), encode(self.ledger.snapshot("agent")))
            self.sent_base = True
            self.reported = (self.ledger.hash, dict(self.ledger.allocations))

    def _restart(self) -> None:
        if self.ledger and self.sent_base:
            self.old.append(self.ledger)
        epoch = self.append(start_key(self.host), encode(Start(host=self.host)))
        past = HostState(self.host)
        for offset, at_ms, key, value in self.log[:-1]:
            parsed = parse_key(key)
            if parsed and parsed.host == self.host:
                fold(past, parsed, offset, at_ms, value)
        self.ledger = Ledger.recover(past, epoch, 0, 0)
        self.sent_base = False
        self._configure()

    def _zombie(self) -> None:
        """A fenced agent goes on writing under its own epoch."""
        if self.old:
            ledger = self.random.choice(self.old)
            if self.random.random() < 0.5:
                self.append(delta_key(self.host, ledger.epoch), encode(ledger.delta()))
            else:
                self.append(snapshot_key(self.host, ledger.epoch), encode(ledger.snapshot("zombie")))

    def _bad(self) -> None:
        """Something else writes under a key of the host; its agent answers with a snapshot."""
        assert self.ledger is not None
        epoch = self.ledger.epoch
        key = self.random.choice((snapshot_key(self.host, epoch), delta_key(self.host, epoch), start_key(self.host)))
        # a start record of a newer version would fence the writer
        self.append(
            key, self.random.choice((b"{", b"", b"[]" if key.endswith(b"start") else b'{"type":"snapshot","v":9}'))
        )
        self._snapshot()

    def _forget(self) -> None:
        if self.random.random() < 0.3 and self.ledger and not self.ledger.allocations:
            self.append(start_key(self.host), encode(Start(host=self.host, removed=True)))
            self.append(snapshot_key(self.host, self.ledger.epoch), None)
            self.append(delta_key(self.host, self.ledger.epoch), None)
            self._restart()
            self._snapshot()

    def _tombstones(self) -> None:
        """What an agent does with lower epochs once its own first snapshot stands."""
        if self.sent_base:
            for ledger in self.old:
                self.append(snapshot_key(self.host, ledger.epoch), None)
                self.append(delta_key(self.host, ledger.epoch), None)


def compacted(log: list[Raw], random: Random) -> list[Raw]:
    """A log that a broker may have left of this one: in a prefix, superseded records are gone, all or some, and old tombstones."""
    upto, every, tombstones = random.randint(0, len(log)), random.random() < 0.5, random.random() < 0.5
    last = {key: offset for offset, _, key, _ in log[:upto]}
    left = []
    for offset, at_ms, key, value in log[:upto]:
        if last[key] == offset:
            if value is not None or not tombstones:
                left.append((offset, at_ms, key, value))
        elif not every and random.random() < 0.5 and (not tombstones or key not in _buried(log[:upto], last)):
            left.append((offset, at_ms, key, value))
    return left + log[upto:]


def _buried(log: list[Raw], last: dict[bytes | None, int]) -> set[bytes | None]:
    return {key for offset, _, key, value in log if value is None and last[key] == offset}


def without_some_deltas(log: list[Raw], random: Random) -> list[Raw]:
    """The log with any deltas lost that another delta of their key follows."""
    last = {key: offset for offset, _, key, _ in log}
    return [r for r in log if not (r[2] or b"").endswith(b"/delta") or last[r[2]] == r[0] or random.random() < 0.5]
