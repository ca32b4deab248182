"""Who acts on an answer: what is confirmed, released, told and committed rests on an effective decision (invariants 2, 3, 4)."""

from commonplace.core.records.decisions import ID_REUSED, Decision
from commonplace.sim.answers import Answers
from commonplace.sim.findings import Place


def confirmed(answers: Answers, request: str, allocation: str, here: Place) -> None:
    """Only what an effective decision names is ever confirmed."""
    if allocation not in answers.promised and not answers.forgotten(request):
        answers.findings.violated(2, f"{allocation} of {request} is confirmed, which no effective decision names", here)


def loser_released(answers: Answers, request: str, allocation: str, here: Place) -> None:
    """A loser is released only once the effective decision stands, and never what that names."""
    if answers.undecided_again(request):
        return
    effective = answers.by_request.get(request)
    if not effective:
        answers.findings.violated(
            2, f"{allocation} of {request} is released as a loser before any decision stands", here
        )
    elif any(allocation in one.placed for one in effective) and not answers.windowless and request not in answers.anew:
        where = next(one for one in effective if allocation in one.placed)
        text = f"{allocation} of {request} is released as a loser, the effective decision names it"
        answers.findings.violated(3, text, here, ("decisions", where.key[0], where.offset))


def told(answers: Answers, partition: int, record: Decision) -> None:
    """A frontend gave its caller this decision for an answer."""
    request, result, placed = record.request, record.result, frozenset(p.allocation for p in record.placed)
    if (
        (partition, request) in answers.undone
        or answers.windowless
        or record.reason == ID_REUSED
        or request in answers.anew
    ):
        return
    effective = answers.effective.get((partition, request))
    if effective is None:
        answers.findings.violated(2, f"the caller of {request} was told {result} before any decision stands")
    elif (effective.result, effective.placed) != (result, placed):
        at = ("decisions", partition, effective.offset)
        answers.findings.violated(
            2, f"the caller of {request} was told {result} {sorted(placed)}, effective is {effective.result}", at
        )


def committed(answers: Answers, partition: int, offset: int) -> None:
    """All requests below a committed offset have a decision in the log."""
    undecided = answers.undecided.get(partition)
    if not undecided:
        return
    for at, key in undecided.items():
        if at >= offset:
            return
        if key not in answers.effective and not answers.used_elsewhere(key, offset):
            text = f"offset {offset} of requests {partition} is committed, the request {key[1]} at {at} has no decision"
            answers.findings.violated(4, text, ("requests", partition, at))
