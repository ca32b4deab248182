"""The scheduler process around the replica's shell: topics checked, health and metrics served, signals obeyed, rebuilt when needed."""

import logging
import threading
from collections.abc import Mapping
from typing import Final

from commonplace import plugins, signals
from commonplace.errors import CommonplaceError, Denied, NotReady
from commonplace.http import serve
from commonplace.kafka.client import Broker, settings_for
from commonplace.kafka.tail import Lost
from commonplace.kafka.topics import TopicFacts, Topics, require_topics
from commonplace.scheduler.metrics import SchedulerFigures
from commonplace.scheduler.shell import Rebuild, Scheduler
from commonplace.settings import Settings

REBUILD_WAIT_S: Final = 1.0
FOLLOWED: Final = ("hosts", "claims", "requests", "decisions", "control", "replicas")
"""Topics in which a replica holds a position, or whose offsets it compares; made anew, they make it rebuild."""

_LOG: Final = logging.getLogger(__name__)


def run(name: str, settings: Settings) -> None:
    """Run a replica until SIGTERM or SIGINT; a second SIGINT ends it at once. Blocks; raises what a person must act on."""
    stop = threading.Event()
    signals.obey(stop)
    figures = SchedulerFigures(name, settings.topics.pool)
    if taken_up := plugins.load():
        _LOG.info("plugins: %s", ", ".join(taken_up))
    address = settings.scheduler.http
    server = serve(address, figures.registry, figures.ready) if address else None
    if server is not None:
        _LOG.info("health and metrics on http://%s", server.address)
    try:
        while not stop.is_set():
            _live(name, settings, figures, stop)
    finally:
        if server is not None:
            server.close()


def _live(name: str, settings: Settings, figures: SchedulerFigures, stop: threading.Event) -> None:
    """One life: from topics that are as they must be to a signal or a rebuild.

    Before it has served once, broken topics and refusals are raised, because a person is watching; later they are waited for.
    """
    served, waiting = figures.catchup_s > 0, figures.state
    try:
        broker, facts, findings = require_topics(settings)
        for finding in findings if not served else ():
            _LOG.warning("%s", finding)
        _serve(name, settings, facts, broker, figures, stop)
    except (Rebuild, Lost) as e:
        figures.state = f"rebuilding: {e}"
        figures.alarm(figures.state)
        stop.wait(REBUILD_WAIT_S)
    except (NotReady, Denied) as e:
        if figures.catchup_s == 0:
            raise
        if waiting != str(e):
            figures.alarm(f"not ready: {e}")
        figures.state = str(e)
        stop.wait(REBUILD_WAIT_S)


def _serve(
    name: str,
    settings: Settings,
    facts: dict[str, TopicFacts],
    broker: Broker,
    figures: SchedulerFigures,
    stop: threading.Event,
) -> None:
    figures.trouble = ""
    anew: list[str] = []
    done = threading.Event()
    if not broker.embedded:  # which has no topic ids and no settings
        threading.Thread(target=_watch_topics, args=(settings, facts, figures, anew, done), daemon=True).start()
    fitted = settings_for(settings, broker)
    try:
        Scheduler(name, fitted, facts, figures, stop.is_set, lambda: anew[0] if anew else "").run()
    finally:
        done.set()


def _watch_topics(
    settings: Settings,
    facts: Mapping[str, TopicFacts],
    figures: SchedulerFigures,
    anew: list[str],
    done: threading.Event,
) -> None:
    """Look at the topics from time to time: broken ones make us not ready until they are mended, one made anew makes us rebuild."""
    names = Topics(settings.topics.prefix, settings.topics.pool).all(FOLLOWED)
    while not done.wait(settings.scheduler.topics_check_s):
        try:
            _, now, _ = require_topics(settings)
        except CommonplaceError as e:
            if done.is_set():
                return  # of a life that is over: the next one looks for itself
            if figures.trouble != str(e):
                _LOG.error("not ready: %s", e)
            figures.trouble = str(e)
            continue
        if figures.trouble:
            _LOG.info("ready again: the topics are as they must be")
            figures.trouble = ""
        anew += [name for name in names if now[name] != facts[name]]
        if anew:
            return
