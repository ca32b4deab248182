"""What is wrong with a system, and what to do: checks one after another, each ok, warn or fail; a check that can't be made says why.

Reads only, but for one tombstone on `control` under a key that no host can have: its log time is the broker's clock.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from commonplace.errors import BrokerUnavailable, CommonplaceError, NotReady, SettingsError
from commonplace.kafka import client
from commonplace.ops.doctor_broker import answered, clock, local_broker, quarantine, topic_settings
from commonplace.ops.doctor_check import Check
from commonplace.ops.doctor_hosts import Takeovers, hosts, pools
from commonplace.ops.doctor_replicas import group, replicas
from commonplace.ops.fleet_view import FleetView
from commonplace.settings import Settings


def examine(load: Callable[[], Settings]) -> Iterator[Check]:
    """All checks in order, each as soon as it is made; blocks for seconds in between. Stops where the rest would say the same."""
    try:
        settings = load()
        client.check_passed_through(settings)
    except SettingsError as e:
        yield Check("settings", "fail", str(e), "correct it; `commonplace config show --origin` has the rest")
        return
    yield Check("settings", "ok", f"prefix {settings.topics.prefix}, pool {settings.topics.pool}")
    yield local_broker()
    try:
        broker = client.require_broker(settings)
    except CommonplaceError as e:
        lacking = isinstance(e, BrokerUnavailable)
        yield Check("broker", "fail", str(e), "start it, or name another with -b", not_ready=lacking)
        return
    settings = client.settings_for(settings, broker)
    yield answered(settings, broker)
    yield from _told("topics", lambda: topic_settings(settings, broker))
    yield from _told("clock", lambda: [clock(settings, broker)])
    try:
        takeovers = Takeovers()
        with FleetView(settings, takeovers.observe) as view:
            view.read()
            yield from hosts(view)
            yield takeovers.check(view)
            yield from replicas(view)
            yield from _told("pools", lambda: pools(settings, view))
    except CommonplaceError as e:
        yield Check("hosts", "fail", str(e), "see the line above", not_ready=isinstance(e, NotReady))
        return
    yield from _told("group", lambda: group(settings, broker))
    yield from _told("quarantine", lambda: [quarantine(settings, broker)])


def counted(checks: Sequence[Check]) -> Mapping[str, int]:
    """How many checks came out how."""
    return Counter(check.level for check in checks)


def _told(name: str, make: Callable[[], Sequence[Check]]) -> Sequence[Check]:
    """The checks, or that they could not be made."""
    try:
        return make()
    except CommonplaceError as e:
        return [Check(name, "warn", f"could not be checked: {e}")]
