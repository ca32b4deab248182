"""A ledger lives, dies and comes back from its log, with a plain account beside it that says what must become of every record.

The account knows the rules (docs/protocol.md) and nothing of the ledger's code; only the hash functions are shared. Reports stand in a
compacted topic. A crash loses what was not reported: the next ledger starts from what compaction left and takes the claims again.
"""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from columns import wrong_columns
from commonplace.core import hashing
from commonplace.core.codec import encode
from commonplace.core.host_keys import delta_key, parse_key, snapshot_key, start_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Configure, Failed, Found, Gone, Lapse, Taken, Up
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.hosts import Allocation, Start, Whole
from commonplace.core.resources import Inventory
from commonplace.core.view import View
from commonplace.sim.log import Raw, Rules, Topic

HOST = "h"
LEASES_MS = (50, 200, 1_000)
NAMES = st.sampled_from(("a0", "a1", "a2", "a3"))
RULES = Rules(compact=True, segment_records=2, min_compaction_lag_ms=0, delete_retention_ms=0)
Record = Claim | Confirm | Release


@dataclass
class Held:
    """An allocation as the account has it; `until_ms` while it is leased."""

    resources: dict[str, int]
    group: str
    state: str
    building: bool
    lease_ms: int
    until_ms: int | None
    replaces: str = ""
    becomes: dict[str, int] = field(default_factory=dict)


@dataclass
class Account:
    """What a host must hold, and how many claims records that takes into account."""

    held: dict[str, Held] = field(default_factory=dict)
    through: int = -1

    def drop(self, name: str) -> None:
        """What was to replace it stands alone from now on."""
        if self.held.pop(name, None) is None:
            return
        for other in self.held.values():
            if other.replaces == name:
                other.resources, other.replaces = other.becomes, ""

    def used(self, name: str) -> int:
        return sum(held.resources.get(name, 0) for held in self.held.values())


class LedgerMachine(RuleBasedStateMachine):
    """Rules are what claimers, frontends, the driver, operators, time, the broker and bad luck do."""

    @initialize()
    def begin(self) -> None:
        self.now_ms = self.log_time_ms = 10_000
        self.claims: list[tuple[int, int, Record]] = []
        self.vcpus, self.status = 8, "enabled"
        self.traits: tuple[str, ...] = ("T_A",)
        self.topic = Topic("hosts", 1, RULES)
        self.everything = View(1)
        self.topic.subscribe(self._folded)
        self.account = self.reported = Account()
        self.zombies: list[Ledger] = []
        self._start(HostState(HOST))

    def _folded(self, _name: str, _id: str, partition: int, raw: Raw) -> None:
        self.everything.fold(partition, *raw, 0)

    def _append(self, key: bytes, value: bytes | None) -> int:
        return self.topic.append(0, key, value, self.log_time_ms)

    def _start(self, past: HostState) -> None:
        """A new agent: its start record, the ledger of the last report, the first snapshot."""
        epoch = self._append(start_key(HOST), encode(Start(host=HOST)))
        self.started_ms = self.log_time_ms
        self.ledger = Ledger.recover(past, epoch, self.started_ms, self.now_ms)
        self._configure()
        self.account = deepcopy(self.reported)
        for held in self.account.held.values():
            if held.state == "leased":
                held.until_ms = self.now_ms + held.lease_ms
        self.snapshot()

    def _configure(self) -> None:
        inventory = {"VCPU": Inventory(total=self.vcpus, max_unit=6), "MEMORY_MB": Inventory(total=64, step_size=2)}
        self.ledger.receive(Configure(inventory, self.traits, {}, self.status), self.now_ms)  # type: ignore[arg-type]

    # -- the account's rules ------------------------------------------------------------------------------------------------------------

    def _hash(self) -> int:
        ledger = self.ledger
        total = hashing.host_part(ledger.inventory, self.traits, {}, self.status)
        for name, held in self.account.held.items():
            total += hashing.allocation_hash(Allocation(id=name, group=held.group, resources=held.resources))
        return total & hashing.MASK

    def _expected(self, log_time_ms: int, record: Record) -> list[tuple[str, str]]:
        """Verdict and reason of a record by the account, which is changed accordingly."""
        held = self.account.held
        if isinstance(record, Claim):
            return self._expected_claim(log_time_ms, record)
        mine = held.get(record.allocation)
        if record.allocation.startswith("found:"):
            return [("ignored", "")]
        if isinstance(record, Confirm):
            if mine is None:
                return [("late", "")]
            if mine.state == "active":
                return [("ignored", "")]
            mine.state, mine.until_ms = "active", None
            if not mine.replaces:
                return [("confirmed", "")]
            self.account.drop(mine.replaces)
            return [("confirmed", ""), ("released", "")]
        if mine is None or (record.leased_only and mine.state == "active"):
            return [("ignored", "")]
        self.account.drop(record.allocation)
        return [("released", "")]

    def _expected_claim(self, log_time_ms: int, claim: Claim) -> list[tuple[str, str]]:
        held, asked = self.account.held, claim.allocations
        if claim.mode == "renew":
            return [self._expected_renewal(a.id, claim.lease_ms) for a in asked]
        if log_time_ms + claim.lease_ms < self.started_ms:
            return [("rejected", "expired")] * len(asked)
        if any(a.id in held for a in asked):
            return [("ignored", "")]
        reason = self._expected_refusal(claim)
        if reason:
            return [("rejected", reason)] * len(asked)
        for a in asked:
            until_ms, becomes = self.now_ms + claim.lease_ms, dict(a.becomes.resources) if a.becomes else {}
            held[a.id] = Held(dict(a.resources), a.group, "leased", True, claim.lease_ms, until_ms, a.replaces, becomes)
        return [("granted", "")] * len(asked)

    def _expected_renewal(self, name: str, lease_ms: int) -> tuple[str, str]:
        mine = self.account.held.get(name)
        if mine is None:
            return "rejected", "expired"
        if mine.state == "active":
            return "ignored", ""
        mine.lease_ms, mine.until_ms = lease_ms, self.now_ms + lease_ms
        return "renewed", ""

    def _expected_refusal(self, claim: Claim) -> str:
        held, asked = self.account.held, claim.allocations
        if self.status != "enabled":
            return "disabled"
        group = asked[0].group
        in_group = sum(h.group == group for h in held.values()) + len(asked)
        building = sum(h.building for h in held.values()) + len(asked)
        if (
            not set(claim.traits_required) <= set(self.traits)
            or set(claim.traits_forbidden) & set(self.traits)
            or any(not set(names) & set(self.traits) for names in claim.traits_any_of)
            or (claim.group_max and group and in_group > claim.group_max)
        ):
            return "constraint"
        if claim.mode == "strict" and claim.expected != hashing.to_hex(self._hash()):
            return "stale"
        if asked[0].replaces:
            return self._expected_refusal_to_replace(claim.instances_max, asked[0])
        if (claim.builds_max and building > claim.builds_max) or (
            claim.instances_max and len(held) + len(asked) > claim.instances_max
        ):
            return "constraint"
        vcpus, memory = (sum(a.resources[name] for a in asked) for name in ("VCPU", "MEMORY_MB"))
        if (
            self.account.used("VCPU") + vcpus > self.vcpus
            or self.account.used("MEMORY_MB") + memory > 64
            or any(a.resources["VCPU"] > 6 or a.resources["MEMORY_MB"] % 2 for a in asked)
        ):
            return "full"
        return ""

    def _expected_refusal_to_replace(self, instances_max: int, asked: Allocation) -> str:
        old, whole = self.account.held.get(asked.replaces), asked.becomes
        assert whole is not None
        if old is None:
            return "stale"
        if (
            old.state != "active"
            or old.replaces
            or any(h.replaces == asked.replaces for h in self.account.held.values())
        ):
            return "constraint"
        if asked.replaces.startswith("found:"):
            return "constraint"
        beyond = {name: amount - old.resources.get(name, 0) for name, amount in whole.resources.items()}
        if asked.resources != {name: more for name, more in beyond.items() if more > 0}:
            return "constraint"
        if instances_max and len(self.account.held) > instances_max:
            return "constraint"
        for name, amount, most in (("VCPU", self.vcpus, 6), ("MEMORY_MB", 64, 64)):
            if self.account.used(name) + beyond[name] > amount or whole.resources[name] > most:
                return "full"
        return "full" if whole.resources["MEMORY_MB"] % 2 else ""

    # -- claimers and frontends ---------------------------------------------------------------------------------------------------------

    def _write(self, record: Record) -> None:
        offset = self.claims[-1][0] + 1 + len(self.claims) % 2 if self.claims else 0  # with gaps
        self.claims.append((offset, self.log_time_ms, record))

    @rule(
        names=st.lists(NAMES, min_size=1, max_size=3, unique=True),
        mode=st.sampled_from(("strict", "strict", "fits", "renew")),
        knows=st.booleans(),
        vcpus=st.integers(1, 7),
        memory_mb=st.integers(1, 40),
        group=st.sampled_from(("", "g", "k")),
        bound=st.sampled_from(("", "", "group_max", "builds_max", "instances_max")),
        most=st.integers(1, 4),
        trait=st.sampled_from(("", "", "T_A", "T_B")),
        forbid=st.booleans(),
        lease_ms=st.sampled_from(LEASES_MS),
    )  # fmt: skip
    def claim(
        self, names: list[str], mode: str, knows: bool, vcpus: int, memory_mb: int, group: str, bound: str, most: int,
        trait: str, forbid: bool, lease_ms: int,
    ) -> None:  # fmt: skip
        asked = [
            Allocation(id=n, request="r", instance="vm", group=group, resources={"VCPU": vcpus, "MEMORY_MB": memory_mb})
            for n in names
        ]
        traits = (trait,) if trait else ()
        self._write(
            Claim(
                host=HOST, request="r", mode=mode, lease_ms=lease_ms, allocations=asked,  # type: ignore[arg-type]
                expected=hashing.to_hex(self.ledger.hash if knows else 7),
                traits_forbidden=traits if forbid else (), traits_required=() if forbid else traits,
                **({bound: most} if bound else {}),  # type: ignore[arg-type]
            )
        )  # fmt: skip

    @rule(
        name=NAMES,
        vcpus=st.integers(1, 2),
        group=st.sampled_from(("", "g", "k")),
        strict=st.booleans(),
        builds_max=st.sampled_from((0, 0, 2)),
    )
    def claim_well(self, name: str, vcpus: int, group: str, strict: bool, builds_max: int) -> None:
        """A claim that is granted where there is room: most of a host's life begins so."""
        self.take(100)
        asked = Allocation(id=name, request="r", instance="vm", group=group, resources={"VCPU": vcpus, "MEMORY_MB": 2})
        expected = hashing.to_hex(self.ledger.hash)
        mode = "strict" if strict else "fits"
        self._write(
            Claim(
                host=HOST,
                request="r",
                mode=mode,  # type: ignore[arg-type]
                lease_ms=LEASES_MS[-1],
                allocations=[asked],
                expected=expected,
                builds_max=builds_max,
            )
        )
        self.take(1)

    @rule(
        name=NAMES,
        old=NAMES | st.just("found:i0"),
        vcpus=st.integers(1, 7),
        memory_mb=st.integers(1, 8),
        wrong=st.sampled_from((0, 0, 0, 1)),
        settled=st.booleans(),
        instances_max=st.sampled_from((0, 0, 2)),
        knows=st.sampled_from((True, True, False)),
    )
    def replace(
        self, name: str, old: str, vcpus: int, memory_mb: int, wrong: int, settled: bool, instances_max: int, knows: bool
    ) -> None:  # fmt: skip
        """A resize in place: claims the difference to what is held, by the state of now."""
        if settled:
            self._write(Confirm(host=HOST, request="r", allocation=old))
        self.take(100)
        held = self.ledger.allocations.get(old)
        had = held.resources if held is not None else {}
        whole = {"VCPU": vcpus, "MEMORY_MB": memory_mb}
        beyond = {n: amount - had.get(n, 0) for n, amount in whole.items()}
        more = {n: amount + wrong for n, amount in beyond.items() if amount > 0}
        asked = Allocation(
            id=name, request="r2", instance="vm", resources=more, replaces=old, becomes=Whole(resources=whole)
        )
        expected = hashing.to_hex(self.ledger.hash if knows else 7)
        self._write(
            Claim(
                host=HOST,
                request="r2",
                lease_ms=LEASES_MS[-1],
                allocations=[asked],
                expected=expected,
                instances_max=instances_max,
            )
        )
        self.take(1)

    @rule(name=NAMES | st.just("found:i0"), at_once=st.booleans())
    def confirm(self, name: str, at_once: bool) -> None:
        self._write(Confirm(host=HOST, request="r", allocation=name))
        self.take(100 * at_once)

    @rule(name=NAMES | st.just("found:i0"), leased_only=st.booleans(), at_once=st.booleans())
    def release(self, name: str, leased_only: bool, at_once: bool) -> None:
        self._write(Release(host=HOST, request="r", allocation=name, leased_only=leased_only))
        self.take(100 * at_once)

    # -- the agent ----------------------------------------------------------------------------------------------------------------------

    @rule(most=st.integers(1, 5))
    def take(self, most: int) -> None:
        """Take the next records, and whatever was taken before a second time: that is heard once."""
        before, self.ledger.settled = self.ledger.settled, []
        for offset, log_time_ms, record in self.claims:
            if offset <= self.account.through:
                self.ledger.receive(Taken(offset, log_time_ms, record), self.now_ms)
                assert self.ledger.settled == []
            elif most:
                most -= 1
                self.account.through = offset
                expected = self._expected(log_time_ms, record)
                self.ledger.receive(Taken(offset, log_time_ms, record), self.now_ms)
                said, self.ledger.settled = self.ledger.settled, []
                assert [(s.verdict, s.reason) for s in said] == expected, record
                assert all(s.offset == offset for s in said)
                before += said
        self.ledger.settled = before

    @rule()
    def snapshot(self) -> None:
        self._append(snapshot_key(HOST, self.ledger.epoch), encode(self.ledger.snapshot("agent")))
        self.reported = deepcopy(self.account)
        self._readers_agree()

    @rule()
    def delta(self) -> None:
        self._append(delta_key(HOST, self.ledger.epoch), encode(self.ledger.delta()))
        self.reported = deepcopy(self.account)
        self._readers_agree()

    @rule()
    def a_delta_is_lost(self) -> None:
        self.ledger.delta()

    @rule(name=NAMES, wait=st.booleans())
    def lapse(self, name: str, wait: bool) -> None:
        """The agent asks at the very end of a lease, or whenever."""
        mine = self.account.held.get(name)
        if wait and mine is not None and mine.until_ms is not None:
            self.now_ms = max(self.now_ms, mine.until_ms)
        if mine is not None and mine.until_ms is not None and mine.until_ms <= self.now_ms:
            self.account.drop(name)
        self.ledger.receive(Lapse(name, self.now_ms), self.now_ms)

    # -- driver, operators, time, broker, bad luck --------------------------------------------------------------------------------------

    @rule(name=NAMES)
    def up(self, name: str) -> None:
        if name in self.account.held:
            self.account.held[name].building = False
        self.ledger.receive(Up(name), self.now_ms)

    @rule(name=NAMES)
    def failed(self, name: str) -> None:
        self.account.drop(name)
        self.ledger.receive(Failed(name, "no disk"), self.now_ms)

    @rule(vcpus=st.integers(1, 9))
    def found(self, vcpus: int) -> None:
        """What runs counts, whether there is room for it or not."""
        self.account.held["found:i0"] = Held({"VCPU": vcpus}, "k", "active", False, 0, None)
        self.ledger.receive(Found(instance="i0", resources={"VCPU": vcpus}, group="k"), self.now_ms)

    @rule()
    def gone(self) -> None:
        self.account.held.pop("found:i0", None)
        self.ledger.receive(Gone("i0"), self.now_ms)

    @rule(
        vcpus=st.integers(0, 16), traits=st.sampled_from(((), ("T_A",), ("T_B", "T_A"))),
        status=st.sampled_from(("enabled", "enabled", "enabled", "disabled", "draining")),
    )  # fmt: skip
    def configure(self, vcpus: int, traits: tuple[str, ...], status: str) -> None:
        self.vcpus, self.traits, self.status = vcpus, traits, status
        self._configure()

    @rule(ms=st.sampled_from((1, 50, 60, 500)))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        self.log_time_ms += ms

    @rule()
    def compact(self) -> None:
        self.topic.clean(0, self.log_time_ms)

    @rule(down_ms=st.sampled_from((0, 0, 70, 2_000)))
    def crash(self, down_ms: int) -> None:
        """What was not reported is lost; what compaction left of the log is enough for all that was. The agent's clock starts anew."""
        self.log_time_ms += down_ms
        self.zombies = [*self.zombies[-2:], self.ledger]
        self._start(_read(self.topic))

    @precondition(lambda self: self.zombies)
    @rule(full=st.booleans(), which=st.integers(0, 2))
    def a_zombie_reports(self, full: bool, which: int) -> None:
        zombie = self.zombies[which % len(self.zombies)]
        if full:
            self._append(snapshot_key(HOST, zombie.epoch), encode(zombie.snapshot("zombie")))
        else:
            self._append(delta_key(HOST, zombie.epoch), encode(zombie.delta()))

    @rule()
    def tombstones(self) -> None:
        for zombie in self.zombies:
            self._append(snapshot_key(HOST, zombie.epoch), None)
            self._append(delta_key(HOST, zombie.epoch), None)

    # -- what holds ---------------------------------------------------------------------------------------------------------------------

    @invariant()
    def the_ledger_holds_what_the_account_says(self) -> None:
        if not hasattr(self, "ledger"):
            return
        ledger, held = self.ledger, self.account.held
        says = {
            name: (dict(a.resources), a.group, a.state, a.building, a.lease_ms, ledger.leases.get(name), a.replaces)
            for name, a in ledger.allocations.items()
        }
        assert says == {
            name: (h.resources, h.group, h.state, h.building, h.lease_ms, h.until_ms, h.replaces)
            for name, h in held.items()
        }
        assert ledger.hash == self._hash()
        assert ledger.claims_through == self.account.through
        assert ledger.builds == sum(h.building for h in held.values())
        assert ledger.groups == Counter(h.group for h in held.values() if h.group)
        assert all(ledger.used.get(name, 0) == self.account.used(name) for name in ("VCPU", "MEMORY_MB"))

    def _readers_agree(self) -> None:
        """Who read everything, and who reads what is left, see the ledger."""
        view = View(1)
        for raw in self.topic.read(0, 0, 1_000_000)[0]:
            view.fold(0, *raw, 0)
        for reader in (self.everything, view):
            host = reader.rows[HOST].host
            assert (host.stale, host.hash, dict(host.allocations)) == ("", self.ledger.hash, self.ledger.allocations)
            assert host.claims_through == self.account.through
            assert wrong_columns(reader) == []
        assert view.digest() == self.everything.digest()


def _read(topic: Topic) -> HostState:
    state = HostState(HOST)
    for offset, at_ms, key, value in topic.read(0, 0, 1_000_000)[0]:
        parsed = parse_key(key)
        assert parsed is not None
        fold(state, parsed, offset, at_ms, value)
    return state


LedgerMachine.TestCase.settings = settings(max_examples=250, stateful_step_count=60, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase
