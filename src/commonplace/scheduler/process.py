"""The scheduler process around the replica's shell: topics checked, health and metrics served, signals obeyed, rebuilt when needed."""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from commonplace.errors import CommonplaceError
from commonplace.http import serve
from commonplace.kafka.client import settings_for
from commonplace.kafka.topics import Topics, require_topics
from commonplace.scheduler.metrics import SchedulerFigures
from commonplace.scheduler.shell import Rebuild, Scheduler
from commonplace.settings import Settings

TOPICS_CHECK_S: Final = 30.0
REBUILD_WAIT_S: Final = 1.0
_LOG: Final = logging.getLogger(__name__)


def run(name: str, settings: Settings) -> None:
    """Run a replica until SIGTERM or SIGINT; a second SIGINT ends it at once. Blocks; raises what a person must act on."""
    stop = threading.Event()
    _obey_signals(stop)
    figures = SchedulerFigures(name, settings.topics.pool)
    address = settings.scheduler.http
    server = serve(address, figures.registry, lambda: figures.reason) if address else None
    try:
        _run(name, settings, figures, stop)
    finally:
        if server is not None:
            server.close()


def _run(name: str, settings: Settings, figures: SchedulerFigures, stop: threading.Event) -> None:
    while not stop.is_set():
        broker, facts, findings = require_topics(settings)
        for finding in findings:
            _LOG.warning("%s", finding)
        fitted = settings_for(settings, broker)
        changed = threading.Event()
        done = threading.Event()
        if not broker.embedded:
            threading.Thread(target=_watch_topics, args=(settings, facts, figures, changed, done), daemon=True).start()
        scheduler = Scheduler(name, fitted, facts, figures, _either(stop, changed))
        try:
            scheduler.run()
        except Rebuild as e:
            _LOG.warning("rebuilding: %s", e)
            stop.wait(REBUILD_WAIT_S)
        finally:
            done.set()


def _either(one: threading.Event, other: threading.Event) -> Callable[[], bool]:
    return lambda: one.is_set() or other.is_set()


def _watch_topics(
    settings: Settings,
    facts: dict[str, object],
    figures: SchedulerFigures,
    changed: threading.Event,
    done: threading.Event,
) -> None:
    """Look at the topics' settings from time to time: broken ones make us not ready, a topic made anew makes us rebuild."""
    names = Topics(settings.topics.prefix, settings.topics.pool)
    while not done.wait(TOPICS_CHECK_S):
        try:
            _, now, _ = require_topics(settings)
        except CommonplaceError as e:
            if figures.reason in ("", "topics"):
                figures.reason = str(e)
            _LOG.error("not ready: %s", e)
            continue
        if any(now[n] != facts[n] for n in (names.hosts, names.claims, names.requests, names.decisions)):
            _LOG.error("a topic was made anew: catching up from its start")
            changed.set()
            return
        if figures.reason and figures.catchup_s and figures.reason != "leaving":
            figures.reason = ""


def _obey_signals(stop: threading.Event) -> None:
    def on_signal(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
