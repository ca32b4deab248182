"""An agent's figures for Prometheus: read from its state at scrape time, so that the loop pays nothing for them."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from commonplace import __version__
from commonplace.core.keeper import Keeper
from commonplace.core.kept import FENCED, SERVING
from commonplace.kafka import traffic
from commonplace.kafka.outbox import Outbox, QuarantineWriter


class AgentFigures(Collector):
    """What an agent tells of itself; written by its loop, read by the scrape. Counters outlive a keeper built anew."""

    def __init__(self, name: str, pool: str) -> None:
        self.name, self.pool = name, pool
        self.reason = "starting"
        """Why the agent is not ready beside what its hosts say; "" when nothing is wrong."""
        self.rebuilds = -1
        self.alarms = 0
        self.started = 0
        self.stopped = 0
        self.keeper: Keeper | None = None
        self.outbox: Outbox | None = None
        self.quarantine: QuarantineWriter | None = None
        self._before: tuple[Counter[str], int, int] = (Counter(), 0, 0)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def attach(self, keeper: Keeper) -> None:
        """Count on with a new keeper."""
        self._before = self._totals()
        self.keeper = keeper
        self.rebuilds += 1

    def ready(self) -> str:
        """ "" when every host is serving or was given up to another agent, else what it waits for."""
        if self.reason or self.keeper is None:
            return self.reason or "starting"
        phases = self.keeper.phases
        count = sum(phases.values())
        if phases.get(SERVING, 0) + phases.get(FENCED, 0) == count:
            return ""
        waiting = ", ".join(f"{n} {phase}" for phase, n in sorted(phases.items()) if phase not in (SERVING, FENCED))
        return f"of {count} hosts {waiting}"

    def _totals(self) -> tuple[Counter[str], int, int]:
        verdicts, reports, snapshots = self._before
        if self.keeper is None:
            return self._before
        counted = Counter(dict(self.keeper.ledgers.verdicts))  # copied at once: the loop may be adding a kind
        return verdicts + counted, reports + self.keeper.log.reports, snapshots + self.keeper.log.snapshots

    def collect(self) -> Iterator[Metric]:
        """The families, as a scrape asks for them."""
        labels = {"version": __version__, "agent": self.name, "pool": self.pool}
        yield InfoMetricFamily("commonplace_build", "Version", value=labels)
        verdicts, reports, snapshots = self._totals()
        claims = CounterMetricFamily("commonplace_claims", "What ledgers made of claims and leases", labels=["verdict"])
        for verdict, count in sorted(verdicts.items()):
            claims.add_metric([verdict], count)
        yield claims
        kinds = CounterMetricFamily("commonplace_reports", "Reports written", labels=["kind"])
        kinds.add_metric(["snapshot"], snapshots)
        kinds.add_metric(["delta"], reports - snapshots)
        yield kinds
        hosts = GaugeMetricFamily("commonplace_hosts", "Hosts of this agent", labels=["status"])
        for phase, count in sorted((self.keeper.phases if self.keeper else {}).items()):
            hosts.add_metric([phase], count)
        yield hosts
        instances = CounterMetricFamily("commonplace_instances", "Instances handed to drivers", labels=["action"])
        instances.add_metric(["start"], self.started)
        instances.add_metric(["stop"], self.stopped)
        yield instances
        yield CounterMetricFamily("commonplace_alarms", "What an operator must look at; see the log", self.alarms)
        yield CounterMetricFamily("commonplace_rebuilds", "Times all hosts were started anew", max(0, self.rebuilds))
        yield from self._writing()

    def _writing(self) -> Iterator[Metric]:
        text = "Requests sent to brokers, where librdkafka's statistics are on"
        requests = CounterMetricFamily("commonplace_broker_requests", text, labels=["request"])
        for kind, count in sorted(traffic.sent().items()):
            requests.add_metric([kind], count)
        yield requests
        if self.outbox is not None:
            failures = self.outbox.failures
            yield CounterMetricFamily("commonplace_delivery_failures", "Records not delivered", failures)
            yield GaugeMetricFamily("commonplace_unacknowledged_records", "Records on their way", len(self.outbox))
        if self.quarantine is not None:
            put_aside = CounterMetricFamily(
                "commonplace_quarantined", "Records that could not be used", labels=["topic", "reason"]
            )
            for (topic, reason), count in sorted(self.quarantine.counts.items()):
                put_aside.add_metric([topic, reason], count)
            yield put_aside
            yield CounterMetricFamily(
                "commonplace_quarantine_dropped", "Bad records counted and not written", self.quarantine.dropped
            )
