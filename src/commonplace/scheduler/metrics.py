"""A replica's figures for Prometheus: read from its state at scrape time, so that the loop pays for counters only once."""

import logging
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from commonplace import __version__
from commonplace.clock import wall_s
from commonplace.core.replica import Replica
from commonplace.kafka import traffic
from commonplace.kafka.outbox import QuarantineWriter
from commonplace.plugins import faults

_LOG: Final = logging.getLogger(__name__)

BUCKETS_MS: Final = (1, 2, 4, 8, 15, 30, 60, 125, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 30_000, 60_000)


class SchedulerFigures(Collector):
    """What a scheduler tells of itself. Written by the loop and the topics' watch, read by the scrape.

    Three things can keep it from being ready, each "" when it does not: `state` (where it is in its life), `trouble` (what is
    wrong with broker or topics), `refused` (why the broker keeps it out of the group).
    """

    def __init__(self, name: str, pool: str) -> None:
        self.name, self.pool = name, pool
        self.state, self.trouble, self.refused = "starting", "", ""
        self.lag = self.alarms = self.intake_pauses = 0
        self.catchup_s = 0.0
        self.rebuilds = -1
        self.digest = "0"  # of the last cycle report, in hex
        self._replica: Replica | None = None
        self._quarantine: QuarantineWriter | None = None
        self._waits = [0] * (len(BUCKETS_MS) + 1)
        self._waited_ms = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def ready(self) -> str:
        """Why it is not ready, "" when it is."""
        return self.state or self.trouble or self.refused

    def attach(self, replica: Replica, quarantine: QuarantineWriter, state: str) -> None:
        """A new view is being built."""
        self._replica, self._quarantine, self.state = replica, quarantine, state
        self.rebuilds += 1

    def caught_up(self, seconds: float) -> None:
        """It serves from now on."""
        self.catchup_s, self.state, self.lag = seconds, "", 0

    def detach(self) -> None:
        """It serves no more."""
        self.state = self.state or "stopped"

    def alarm(self, text: str) -> None:
        """Tell operators, in the log and as a count."""
        self.alarms += 1
        _LOG.error("%s", text)

    def decided(self, result: str, waited_ms: int) -> None:
        """Note how long a decision took from the request's log time, in ms."""
        if result != "again":
            self._waits[bisect_left(BUCKETS_MS, waited_ms)] += 1
            self._waited_ms += waited_ms

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily]:
        """Everything, once per scrape."""
        yield InfoMetricFamily(
            "commonplace_build", "Version", value={"version": __version__, "replica": self.name, "pool": self.pool}
        )
        yield GaugeMetricFamily("commonplace_catchup_seconds", "Time the last catching up took", self.catchup_s)
        yield CounterMetricFamily(
            "commonplace_rebuilds", "Times the state was dropped and built anew", max(0, self.rebuilds)
        )
        yield CounterMetricFamily("commonplace_alarms", "What an operator must look at; see the log", self.alarms)
        yield CounterMetricFamily(
            "commonplace_intake_pauses", "Times no request was read because answers waited", self.intake_pauses
        )
        yield GaugeMetricFamily("commonplace_replay_lag_records", "Records of hosts known of and not folded", self.lag)
        yield self._labelled("commonplace_plugin_faults", "Times that a plugin raised or was too slow, and was left out",
                             ("plugin",), {(name,): count for name, count in dict(faults).items()}, counter=True)  # fmt: skip
        yield self._labelled("commonplace_broker_requests", "Requests sent to brokers, where librdkafka's statistics are on",
                             ("request",), {(kind,): n for kind, n in traffic.sent().items()}, counter=True)  # fmt: skip
        yield self._latency()
        if self._replica is not None:
            yield from self._of_replica(self._replica)
        if self._quarantine is not None:
            yield CounterMetricFamily(
                "commonplace_quarantine_dropped", "Bad records counted and not written", self._quarantine.dropped
            )
            yield self._labelled(
                "commonplace_quarantined",
                "Bad records met",
                ("topic", "reason"),
                dict(self._quarantine.counts),
                counter=True,
            )

    def _latency(self) -> HistogramMetricFamily:
        total, buckets = 0, []
        for bound, count in zip([*(str(b / 1000) for b in BUCKETS_MS), "+Inf"], self._waits, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(
            "commonplace_request_seconds", "From a request's log time to its decision", buckets, self._waited_ms / 1000
        )

    def _of_replica(self, replica: Replica) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        claims, view = replica.claims, replica.view
        counts = claims.counts
        yield self._labelled(
            "commonplace_decisions", "Decisions", ("result", "flavor"), dict(replica.decider.decisions), counter=True
        )
        verdicts = {("granted",): counts.granted, ("timed_out",): counts.timed_out}
        verdicts |= {(f"rejected_{reason}",): n for reason, n in dict(counts.rejected).items()}
        yield self._labelled(
            "commonplace_claims", "Claims by what became of them", ("verdict",), verdicts, counter=True
        )
        yield self._labelled("commonplace_filter_rejections", "Hosts that a filter turned away, of requests that found none",
                             ("filter",), {(f,): n for f, n in dict(replica.decider.eliminated).items()}, counter=True)  # fmt: skip
        yield CounterMetricFamily("commonplace_decisions_void", "Decisions that another one came before", counts.void)
        yield CounterMetricFamily("commonplace_allocations_released", "Losing allocations given back", counts.strays)
        yield GaugeMetricFamily(
            "commonplace_conflict_fraction", "Rejected claims per granted claim", counts.conflict_fraction
        )
        yield GaugeMetricFamily("commonplace_pending_claims", "Claims without a verdict", len(claims.pending))
        yield GaugeMetricFamily("commonplace_waiting_requests", "Requests read and not decided", replica.waiting)
        yield GaugeMetricFamily(
            "commonplace_decisions_kept", "Decisions remembered for redelivery", len(replica.book.history)
        )
        newest_ms = view.newest_log_time_ms
        age_s = max(0.0, wall_s() - newest_ms / 1000) if newest_ms else 0.0
        yield GaugeMetricFamily("commonplace_view_age_seconds", "Age of the newest host record folded", age_s)
        yield self._labelled(
            "commonplace_hosts", "Hosts by status", ("status",), {(s,): n for s, n in view.statuses().items()}
        )
        yield self._labelled("commonplace_records", "Records of hosts read, by what became of them", ("outcome",),
                             {(o,): n for o, n in view.outcomes.items()}, counter=True)  # fmt: skip
        yield GaugeMetricFamily(
            "commonplace_state_digest",
            "State digest at the last cycle report, its lower 52 bits",
            int(self.digest, 16) & (2**52 - 1),
        )
        capacity: dict[tuple[str, ...], float] = {}
        n = view.columns.rows
        for name in list(view.columns.capacity):  # a class that is being added has its free column first
            total, free = view.columns.capacity[name][:n].sum(), view.columns.free[name][:n].sum()
            capacity[self.pool, name, "free"], capacity[self.pool, name, "used"] = float(free), float(total - free)
        labels = ("pool", "class", "state")
        yield self._labelled("commonplace_capacity", "Capacity of the pool in the class's unit", labels, capacity)

    def _labelled(
        self, name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float], counter: bool = False
    ) -> CounterMetricFamily | GaugeMetricFamily:
        family = (CounterMetricFamily if counter else GaugeMetricFamily)(name, text, labels=labels)
        for key, value in values.items():
            family.add_metric(list(key), value)
        return family
