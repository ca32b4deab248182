"""A plan as a person reads it: pure, text in lines; the last says what it rests on."""

from collections import Counter
from typing import Final

from commonplace.ops import explain_render
from commonplace.ops.explain_render import grid
from commonplace.ops.plan import Answer, Plan
from commonplace.words import counted

HOSTS_SHOWN: Final = 10


def lines(found: Plan, drained: bool, wide: bool) -> list[str]:
    """Every answer, where instances would go (all hosts with `wide`), why others would not, and the digest."""
    told = _moves(found) if drained else []
    for answer in found.answers:
        if not drained or answer.fits < answer.count:
            told += _answer(answer, wide)
    fits, count = sum(a.fits for a in found.answers), sum(a.count for a in found.answers)
    where = f"{counted(found.hosts, 'host')} of pool {found.pool}"
    return [*told, "", f"{fits} of {count} instances fit on {where}; digest {found.digest}"]


def _moves(found: Plan) -> list[str]:
    rows = [
        (a.request, a.flavor, a.placed[0].host if a.placed else f"nowhere: {a.message or a.result}")
        for a in found.answers
    ]
    return (
        grid(("INSTANCE", "FLAVOR", "WOULD GO TO"), rows)
        if rows
        else ["nothing is to be moved: the hosts hold no instance"]
    )


def _answer(answer: Answer, wide: bool) -> list[str]:
    asked = f"{answer.request} ({answer.flavor} × {answer.count})"
    hosts = answer.hosts or Counter(one.host for one in answer.placed)
    if answer.hosts:
        told = [f"fills: {answer.flavor} fits {counted(answer.fits, 'time')}, on {counted(len(hosts), 'host')}"]
    elif answer.fits:
        told = [f"fits: {asked}" if answer.fits == answer.count else f"fits in part, {answer.fits} of it: {asked}"]
    else:
        told = [f"does not fit: {asked}: {answer.message or answer.result}"]
    shown = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))
    told += [f"  {host}   {count}" for host, count in (shown if wide else shown[:HOSTS_SHOWN])]
    if len(shown) > HOSTS_SHOWN and not wide:
        told.append(f"  … and {counted(len(shown) - HOSTS_SHOWN, 'more host')}; -o wide lists them")
    if answer.table is not None:
        told += [f"  {line}" for line in (["then:"] if answer.hosts else []) + explain_render.table(answer.table)]
    return told
