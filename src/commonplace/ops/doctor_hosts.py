"""Checks of hosts: whether they report, who starts them, and that they and their groups live in one pool."""

from collections import defaultdict
from typing import Final

from commonplace.core.codec import decode
from commonplace.core.host_keys import parse_key
from commonplace.core.records.hosts import Start
from commonplace.kafka import topics
from commonplace.kafka.tail import Raw
from commonplace.ops.doctor_check import Check, Level, named
from commonplace.ops.fleet_view import FleetView
from commonplace.ops.operators import FORGETTER
from commonplace.settings import DAY_MS, HOUR_MS, MINUTE_MS, Settings

RESTARTS_WARN: Final = 5
"""Starts of one host in an hour: deployments take one or two."""


def hosts(view: FleetView) -> list[Check]:
    """How many are ready, and each kind of trouble with the first few names."""
    rows = view.hosts()
    if not rows:
        todo = "start agents, or `commonplace fleet --hosts 100`"
        return [Check("hosts", "warn", f"no host reports to pool {view.settings.topics.pool}", todo)]
    troubled: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        flags = view.flags(row)
        starting = row.host.stale == "starting" and view.now_ms - row.host.log_time_ms > MINUTE_MS
        for flag in (["never reported"] if starting else flags) + ([row.status] if row.status != "enabled" else []):
            troubled[flag].append(row.host.name)
    ready = len(rows) - len(
        {name for flag in ("newer", "stale", "silent", "never reported") for name in troubled[flag]}
    )
    checks = [Check("hosts", "ok" if ready else "warn", f"{ready} of {len(rows)} report and can be read")]
    checks += [
        Check("hosts", level, named(flag, troubled[flag]), todo) for flag, level, todo in TROUBLES if troubled[flag]
    ]
    if view.quiet:
        todo = "start agents and schedulers, or set this clock"
        checks.append(Check("hosts", "warn", "nothing was written for the liveness timeout, by this clock", todo))
    return checks


TROUBLES: Final[tuple[tuple[str, Level, str], ...]] = (
    # flag, level, what to do
    ("never reported", "fail", "its agent started and sent no report: its log says why (it may have refused to start)"),
    (
        "stale",
        "warn",
        "a report is missing or cannot be used: `commonplace host show NAME` says which; agents send another",
    ),
    ("silent", "warn", "see that their agents run and reach the broker; `commonplace host forget` those that are gone"),
    ("newer", "warn", "they speak a newer version: upgrade the schedulers first, then agents"),
    ("gap", "warn", "claims were lost to retention: compare what runs, then `commonplace host clear-gap NAME`"),
    ("disabled", "ok", "`commonplace host enable NAME`"),
    ("draining", "ok", "`commonplace host enable NAME`"),
)


class Takeovers:
    """Who started each host lately: two agents of one host name take it from each other again and again."""

    def __init__(self) -> None:
        self._starts: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def observe(self, topic: str, partition: int, record: Raw) -> None:
        """Note a start record."""
        _, at_ms, raw, value = record
        key = parse_key(raw) if topic == "hosts" else None
        if key is None or key.kind != "start" or value is None:
            return
        start = decode("hosts", value)
        if isinstance(start, Start) and start.agent != FORGETTER:
            self._starts[key.host].append((at_ms, start.agent))

    def check(self, view: FleetView) -> Check:
        """Hosts that went from an agent to another and back within a day, and those that start again and again."""
        torn, restless = [], []
        for host, starts in self._starts.items():
            agents = [agent for at_ms, agent in starts if at_ms >= view.now_ms - DAY_MS]
            owners = [agent for i, agent in enumerate(agents) if i == 0 or agents[i - 1] != agent]
            if len(set(owners)) < len(owners):
                torn.append(host)
            elif sum(at_ms >= view.now_ms - HOUR_MS for at_ms, _ in starts) >= RESTARTS_WARN:
                restless.append(host)
        if torn:
            todo = "two agents run for one host name: stop one of them, or give its host another name"
            return Check("host names", "fail", named("taken back and forth by two agents", torn), todo)
        if restless:
            todo = "its agent is restarted again and again, or two agents of one name run: see their logs"
            return Check(
                "host names", "warn", named(f"started {RESTARTS_WARN} times or more in an hour", restless), todo
            )
        return Check("host names", "ok", "no host is taken back and forth by two agents")


def pools(settings: Settings, view: FleetView) -> list[Check]:
    """Hosts that are live on two pools of the prefix, which would both sell the same machine, and groups that lie in two."""
    pool = settings.topics.pool
    others = {name: theirs for name, theirs in topics.pools(settings).items() if name != pool}
    mine, groups, twice, spanning = _live(view), _groups(view), [], []
    for other, its_settings in others.items():
        with FleetView(its_settings) as theirs:
            theirs.read()
            twice += [f"{name} (also {other})" for name in sorted(mine & _live(theirs))]
            spanning += [f"{name} (also {other})" for name in sorted(groups & _groups(theirs))]
    shown = f"({', '.join([pool, *others])})"
    checks = [Check("pools", "ok", f"no host is live on two pools {shown}")]
    if twice:
        todo = "a host reports to exactly one pool: stop the agent of the wrong one and forget the host there"
        checks = [Check("pools", "fail", named("live on two pools", twice), todo)]
    if spanning:
        todo = "nobody keeps the policy of a group across pools: move its members into one with `commonplace move`"
        checks.append(Check("pools", "warn", named("groups with members in two pools", spanning), todo))
    return checks


def _live(view: FleetView) -> set[str]:
    """Hosts that an agent reports for: a start record alone, as `forget` writes it, is no sign of life."""
    return {row.host.name for row in view.hosts() if row.host.stale != "starting" and "silent" not in view.flags(row)}


def _groups(view: FleetView) -> set[str]:
    return {group for row in view.hosts() for group in row.host.groups}
