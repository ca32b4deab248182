"""A decision as a person reads it: pure, text in lines; the last line says what to do.

no valid host for r-7f3b (db.full × 1): 0 of 500 hosts
  310 capacity    needs 16384 MB of memory, most free 14336 on host-0042
  150 traits      lacks HW_CPU_X86_AVX512F (host-0007)
   40 status      draining (host-0012)
closest: host-0042, short of 2048 MB of memory
would fit: with 14336 MB of memory, or without the traits (12 hosts)
"""

from typing import Final

from commonplace.core.records.decisions import IMPOSSIBLE, Decision, Explanation, Miss
from commonplace.words import counted

UNITS: Final = {"VCPU": "vCPU", "PCPU": "pCPU", "MEMORY_MB": "MB of memory", "DISK_GB": "GB of disk"}
"""How people say the standard classes; others go by their name."""

WAIVED: Final = {
    "status": "on hosts that are not enabled",
    "liveness": "on silent hosts",
    "traits": "without the traits",
    "io_ops": "once builds are done",
    "instances": "above the limit of instances",
    "capacity": "with less",
    "group": "without the group's limit",
}
"""What would have to be otherwise for a filter to pass."""


def decision(record: Decision) -> list[str]:
    """The whole answer: what was placed where, or why nothing was."""
    match record.result:
        case "placed":
            part = f", {len(record.placed)} of them" if len(record.placed) < record.count else ""
            others = [f"  else: {', '.join(record.alternates)}"] if record.alternates else []
            return [f"placed {_asked(record)}{part}{_effort(record)}", *_places(record), *others]
        case "passed":
            return [f"passed: {record.message}; nothing is claimed"]
        case "no_valid_host":
            return refusal(record)
        case "expired":
            why = record.message or "its deadline passed before a host granted it"
            return [f"expired {_asked(record)}: {why}"]
        case "rejected":
            why = ": ".join(part for part in (record.reason.replace("_", " "), record.message) if part)
            return [f"rejected {_asked(record)}: {why or 'no reason given'}"]


def refusal(record: Decision) -> list[str]:
    """Why no host could take it: how many each filter turned away, and the closest miss."""
    explained = record.explanation
    if explained is None:
        return [f"no valid host for {_asked(record)}: {record.message or 'no explanation given'}"]
    left = explained.evaluated - sum(explained.filters.values())
    lines = [f"no valid host for {_asked(record)}: {max(0, left)} of {explained.evaluated} hosts"]
    lines += _filters(explained)
    if record.conflicts:
        lines.append(f"  {record.conflicts} of {record.attempts} claims were rejected by hosts that had changed")
    if record.reason == IMPOSSIBLE:
        if explained.closest is not None:
            lines.append(f"closest: {explained.closest.host}, {short(explained.closest)}")
        lines.append(record.message)
    elif explained.evaluated == 0:
        lines.append("no host reports to this pool: start agents or `commonplace fleet`, see `commonplace hosts`")
    elif explained.closest is not None:
        lines.append(f"closest: {explained.closest.host}, {short(explained.closest)}")
        lines += _would_fit(explained, explained.closest)
    elif record.message:
        lines.append(record.message)
    return lines


def lease(record: Decision) -> str:
    """What happens to a placed decision that nobody confirms."""
    seconds = record.confirm_within_ms / 1000
    return f"leased: lapses {duration(seconds)} after the submit unless you `commonplace confirm {record.request}`"


def duration(seconds: float) -> str:
    """A time span in one or two units: `45 s`, `4 min 50 s`, `1 h 5 min`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _asked(record: Decision) -> str:
    return f"{record.request} ({record.flavor or 'unknown flavor'} × {record.count})"


def _effort(record: Decision) -> str:
    # one an instance is the least
    return f" after {record.attempts} attempts" if record.attempts > record.count else ""


def _places(record: Decision) -> list[str]:
    width = max((len(p.host) for p in record.placed), default=0)
    return [f"  {p.host.ljust(width)}   {p.instance}   allocation {p.allocation}" for p in record.placed]


def _filters(explained: Explanation) -> list[str]:
    turned_away = {name: count for name, count in explained.filters.items() if count}
    counts = max((len(str(count)) for count in turned_away.values()), default=0)
    names = max((len(name) for name in turned_away), default=0)
    samples = {one.filter: one for one in (*explained.samples, explained.closest) if one is not None}
    lines = []
    for name, count in sorted(turned_away.items(), key=lambda item: -item[1]):
        detail = _detail(samples[name]) if name in samples else ""
        lines.append(f"  {count:>{counts}} {name.ljust(names)}    {detail}".rstrip())
    return lines


def _would_fit(explained: Explanation, closest: Miss) -> list[str]:
    """What asked otherwise would have been placed: the amount that the closest host has, or a filter that alone turned hosts away."""
    parts: list[str] = []
    for name, count in explained.without.items():
        if name == closest.filter and closest.resource:
            if closest.had > 0 and not closest.detail:
                parts.insert(0, f"with {amount(closest.had, closest.resource)}")
        else:
            parts.append(f"{WAIVED.get(name, f'without {name}')} ({counted(count, 'host')})")
    return [f"would fit: {', or '.join(parts)}"] if parts else []


def _detail(miss: Miss) -> str:
    if not miss.resource:
        return f"{miss.detail} ({miss.host})" if miss.detail else ""
    return f"needs {amount(miss.needed, miss.resource)}, most free {miss.had} on {miss.host}"


def short(miss: Miss) -> str:
    """What a host is short of, or why else it will not do."""
    if miss.resource and miss.needed > miss.had:
        also = f", {miss.detail}" if miss.detail else ""
        return f"short of {amount(miss.needed - miss.had, miss.resource)}{also}"
    return miss.detail or f"turned away by {miss.filter}"


def amount(value: int, resource: str) -> str:
    """An amount of a resource class, as people say it."""
    return f"{value} {UNITS.get(resource, resource)}"
