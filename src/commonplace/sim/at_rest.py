"""What must hold once faults have stopped and everything due has come: every request answered, no lease left, nothing passed over.

requests ─▶ owners ─▶ lapses ─▶ allocations and instances that hosts hold ─▶ bad records
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from commonplace.core.records.requests import Build
from commonplace.sim.answers import digest
from commonplace.sim.checkers import Checkers
from commonplace.sim.findings import Place
from commonplace.sim.model import FAR_MS, Host

DEADLINE_SLACK_MS: Final = 10_000
"""How long after its deadline a request may be decided though nothing goes wrong: a takeover, the sweep, the way to the log."""

LAPSE_SLACK_MS: Final = 10_000
"""How long after its lease a lapse may be reported though nothing goes wrong: a look at the end of the claims, the way to the log."""


def settled(
    checkers: Checkers,
    now_ms: int,
    submitted: Mapping[str, Build],
    *,
    calm_ms: int = FAR_MS,
    deadline_ms: int = 30_000,
    lapse_ms: int = 0,
    start_again_ms: int = 0,
    dead: Collection[str] = (),
    kept: Callable[[str, int, int], bool] = lambda topic, partition, offset: True,
) -> None:
    """Faults stopped at `calm_ms` and everything due has come.

    `submitted` were acknowledged, an agent looks for lapses each `lapse_ms` and writes a start record that is not read back anew after
    `start_again_ms`, `dead` hosts have no agent, `kept` tells whether a record still stood when somebody could read it.
    """
    _decided(checkers, deadline_ms, calm_ms)
    checkers.owners.settle(calm_ms)
    _lapses(checkers, calm_ms, lapse_ms, start_again_ms)
    known = {request for _, request in checkers.answers.asked}
    for request in submitted:
        if request not in known:
            checkers.findings.violated(4, f"request {request} was acknowledged and stands nowhere")
    _instances(checkers, now_ms, dead)
    for place, why in checkers.seen.bad.items():
        if place not in checkers.seen.set_aside and kept(*place):
            checkers.findings.violated(
                10, f"the record at {place[0]} {place[1]}/{place[2]} is bad ({why}) and nobody put it aside", place
            )


def _decided(checkers: Checkers, deadline_ms: int, calm_ms: int) -> None:
    """Every request has its answer, in time once faults stopped; a used id with other content was told so."""
    answers, findings = checkers.answers, checkers.findings
    for key, every in answers.asked.items():
        contents = [asked for asked in every if not asked.gone]
        if not contents:
            continue
        effective, here = answers.effective.get(key), ("requests", key[0], contents[0].offset)
        if effective is None:
            if not answers.used_elsewhere(key):
                findings.violated(4, f"request {key[1]} has no decision", here)
            continue
        first = contents[0]
        late_ms = (
            effective.at_ms - max(first.at_ms, calm_ms) - (first.build.deadline_ms or deadline_ms) - DEADLINE_SLACK_MS
        )
        # Who was told in time that the id is used may ask again when that use is forgotten.
        if late_ms > 0 and (key, digest(first.build)) not in answers.reused:
            findings.violated(4, f"request {key[1]} was decided {late_ms} ms after its deadline, without faults", here)
        for other in contents:
            content = digest(other.build)
            if answers.windowless or key in answers.undone or key[1] in answers.anew:
                break
            if effective.content not in ("", content) and (key, content) not in answers.reused:
                text = f"request {key[1]} came with a used id and other content, and was never told so"
                findings.violated(4, text, ("requests", key[0], other.offset))


def _lapses(checkers: Checkers, calm_ms: int, lapse_ms: int, start_again_ms: int) -> None:
    """Once faults have stopped a lease that is over lapses at once; where a start record was lost, once its host has started after all."""
    for lapse in checkers.grants.lapses:
        again_ms = start_again_ms if lapse.place[1] in checkers.seen.cut_hosts else 0
        late_ms = lapse.at_ms - max(lapse.latest_ms, calm_ms) - lapse_ms - again_ms - LAPSE_SLACK_MS
        if late_ms > 0:
            text = f"{lapse.host} let {lapse.allocation} lapse {late_ms:.0f} ms later than its lease was over, without faults"
            checkers.findings.violated(5, text, lapse.place)


def _instances(checkers: Checkers, now_ms: int, dead: Collection[str]) -> None:
    """What hosts hold is held for good, and of each instance there is one."""
    instances: dict[tuple[str, str, int], list[tuple[Host, Any]]] = {}
    for host in checkers.hosts.values():
        here = ("hosts", host.partition, host.offset)
        for allocation in host.held.values():
            if allocation.origin == "found":
                continue
            instances.setdefault((allocation.flavor, allocation.request, allocation.index), []).append(
                (host, allocation)
            )
            if allocation.id not in checkers.seen.gapped and host.name not in dead:
                _held(checkers, host, allocation, now_ms, here)
    for (_, request, index), holders in instances.items():
        excused = request in checkers.answers.anew or any(
            allocation.id in checkers.seen.gapped or host.name in dead for host, allocation in holders
        )
        if len(holders) > 1 and not excused:
            where = ", ".join(
                f"{allocation.id} ({allocation.state}) on {host.name}" for host, allocation in holders[:4]
            )
            places = [("hosts", host.partition, host.offset) for host, _ in holders]
            checkers.findings.violated(
                5, f"instance {request}.{index} has {len(holders)} allocations: {where}", *places
            )


def _held(checkers: Checkers, host: Host, allocation: Any, now_ms: int, here: Place) -> None:
    answers, findings, identity = checkers.answers, checkers.findings, allocation.id
    if allocation.state == "leased":
        lease = host.leases.get(identity)
        due_ms = (lease.latest_ms if lease else 0) + checkers.seen.drift * allocation.lease_ms + checkers.lease_slack_ms
        if due_ms < now_ms:
            findings.violated(
                5,
                f"{host.name} still holds {identity} leased {now_ms - due_ms:.0f} ms after its lease ran out",
                here,
            )
        return
    promise = answers.promised.get(identity)
    if promise is None:
        if not answers.forgotten(allocation.request):
            findings.violated(
                2, f"{host.name} holds {identity} of {allocation.request}, which no effective decision names", here
            )
    elif (
        promise.effective.key in answers.cancelled
        and not answers.windowless
        # else an owner may cancel by another decision than its submitter was told and confirmed
        and promise.effective.key not in answers.undone
        and identity not in checkers.seen.lost_claims
        and not answers.gone(promise.effective.key)
    ):
        at = promise.effective.key
        text = f"{host.name} holds {identity} of {allocation.request}, which was cancelled"
        findings.violated(2, text, here, ("requests", at[0], answers.cancelled[at]))
