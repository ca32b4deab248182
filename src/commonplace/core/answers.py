"""The decision records that a replica writes: of a request that was placed, of one that was not, and of one that was never ranked."""

from collections.abc import Iterable

from commonplace.core.records.decisions import Decision, Explanation, Placed, Position, Result
from commonplace.core.records.requests import Build
from commonplace.core.work import Work

MESSAGE_MAX = 1_024
"""Most characters of a decision's message, as the record allows."""


def placed(work: Work, replica: str, confirm_within_ms: int, now_ms: int, alternates: Iterable[str]) -> Decision:
    """Every instance that was not given up holds a granted allocation."""
    instances = [
        Placed(
            index=index,
            instance=slot.held.instance,
            host=slot.held.row.host.name,
            allocation=slot.held.allocation,
            grant=Position(slot.held.row.partition, slot.held.offset),
        )
        for index, slot in enumerate(work.slots)
        if slot.held is not None
    ]
    stages = {
        "queued": float(max(0, work.first_claim_ms - work.received_ms)),
        "claimed": float(now_ms - (work.first_claim_ms or now_ms)),
    }
    decision = _decision(work, replica, "placed")
    decision.placed, decision.confirm_within_ms = instances, confirm_within_ms
    decision.attempts = work.attempts + len(instances)
    decision.stages_ms, decision.alternates = stages, tuple(alternates)
    return decision


def unplaced(
    work: Work, replica: str, result: Result, reason: str, message: str, explanation: Explanation | None
) -> Decision:
    """A request that was taken up and got nothing."""
    decision = _decision(work, replica, result)
    decision.reason, decision.message = reason, message[:MESSAGE_MAX]
    decision.attempts, decision.explanation = work.attempts, explanation
    return decision


def _decision(work: Work, replica: str, result: Result) -> Decision:
    """What every answer to a request that was taken up says."""
    build = work.build
    return Decision(
        request=build.id,
        result=result,
        content=work.content,
        position=Position(work.partition, work.offsets[0]),
        replica=replica,
        flavor=build.flavor,
        count=build.count,
        project=build.project,
        user=build.user,
        group=build.group,
        resources=work.resources,
        conflicts=work.conflicts,
    )


def rejected(
    request: str,
    position: Position,
    replica: str,
    reason: str,
    message: str,
    build: Build | None = None,
    content: str = "",
) -> Decision:
    """A request that is not ranked: bad, one too many, or under an id that was used."""
    return Decision(
        request=request,
        result="rejected",
        reason=reason,
        message=message[:MESSAGE_MAX],
        content=content,
        position=position,
        replica=replica,
        flavor=build.flavor if build else "",
        count=build.count if build else 1,
        project=build.project if build else "",
        user=build.user if build else "",
        group=build.group if build else "",
    )
