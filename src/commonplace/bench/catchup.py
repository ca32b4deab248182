"""Catching up: a replica that starts beside a fleet at rest; seconds until it serves, and what it then holds in memory a host.

The topics are filled by ledgers in this process: of every host the start record, the claim and the confirm of each of its instances, and
the snapshot that compaction would leave. No agent runs, so nothing else is written while a replica reads.
"""

from collections.abc import Iterable
from statistics import median
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from commonplace.bench.flavors import INSTANCES_MAX, profile
from commonplace.bench.ledgers import Ledgers, Written
from commonplace.bench.system import Setup, Tell, late_replica, run_on
from commonplace.core.records.control import Flavor
from commonplace.errors import CommonplaceError, TimedOut
from commonplace.kafka.outbox import Outbox
from commonplace.kafka.topics import Topics, require_topics
from commonplace.ops.stack import Stack
from commonplace.words import counted

SETTLE_TIMEOUT_S: Final = 60.0


class Plan(Struct, frozen=True, kw_only=True):
    """Instances on each host, and how many replicas are started, one after the other."""

    instances: int = 10
    starts: int = 3


def run(setup: Setup, plan: Plan, tell: Tell) -> dict[str, Any]:
    """Fill the topics, start replicas; returns the report."""
    assert plan.instances <= INSTANCES_MAX, f"{plan.instances} instances"
    empty_topics = replace(setup, hosts=0, replicas=0)

    def measure(stack: Stack) -> dict[str, Any]:
        tell("starting a replica on empty topics")
        empty = late_replica(stack, "empty")
        tell(f"writing {counted(setup.hosts, 'host')} with {counted(plan.instances, 'instance')} each")
        fill(stack, setup, plan)
        found = []
        for number in range(1, plan.starts + 1):
            tell(f"start {number} of {plan.starts}")
            found.append(late_replica(stack, f"late-{number}"))
            if found[-1]["hosts_enabled"] != setup.hosts:
                raise CommonplaceError(
                    f"the replica knows {found[-1]['hosts_enabled']} of {setup.hosts} hosts: see its log"
                )
        resident = median(one["rss_bytes"] for one in found)
        return {
            "hosts": setup.hosts,
            "instances_a_host": plan.instances,
            "ready_s": {"median": median(one["ready_s"] for one in found), "starts": [one["ready_s"] for one in found]},
            "catchup_s": {
                "median": median(one["catchup_s"] for one in found),
                "starts": [one["catchup_s"] for one in found],
            },
            "rss_bytes": {"empty": empty["rss_bytes"], "median": round(resident)},
            "rss_bytes_a_host": round((resident - empty["rss_bytes"]) / setup.hosts),
        }

    return {"benchmark": "catchup", **run_on(empty_topics, profile("spread"), tell, measure)}


def fill(stack: Stack, setup: Setup, plan: Plan) -> None:
    """Write what a fleet at rest leaves on `hosts` and `claims`; blocks until all of it is acknowledged."""
    _, facts, _ = require_topics(stack.settings)
    names = Topics(stack.settings.topics.prefix, stack.settings.topics.pool)
    ledgers = Ledgers(setup.hosts, setup.partitions, facts[names.claims].topic_id)
    outbox = Outbox(stack.settings, errors_only=True)
    smallest = setup.made()[0]
    _write(outbox, names.hosts, (ledgers.start(host) for host in ledgers.names))
    for host in ledgers.names:
        _write(outbox, names.claims, _instances(ledgers, host, plan.instances, smallest))
    _write(outbox, names.hosts, (ledgers.report(host, whole=True) for host in ledgers.names))
    if missing := outbox.close(SETTLE_TIMEOUT_S):
        waiting = counted(missing, "record is", "records are")
        raise TimedOut(f"{waiting} not acknowledged after {SETTLE_TIMEOUT_S:g} s: see the broker")
    if outbox.failures:
        raise CommonplaceError(f"{counted(outbox.failures, 'record was', 'records were')} not written: see the broker")


def _instances(ledgers: Ledgers, host: str, count: int, flavor: Flavor) -> Iterable[Written]:
    """Claims and confirms of a host's instances; the report that told of them is one that compaction took."""
    records = [record for number in range(count) for record in ledgers.fill(host, number, flavor)]
    ledgers.report(host, whole=True)
    return records


def _write(outbox: Outbox, topic: str, records: Iterable[Written]) -> None:
    for record in records:
        outbox.send(topic, record.partition, record.key, record.value)
