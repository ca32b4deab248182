"""The agent process around its shell: topics checked, health and metrics served, signals obeyed, hosts started anew when needed."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Final

from commonplace import signals
from commonplace.agent.crew import Crew
from commonplace.agent.drivers import Driver
from commonplace.agent.figures import AgentFigures
from commonplace.agent.shell import Agent, Rebuild
from commonplace.errors import CommonplaceError, Denied, NotReady
from commonplace.http import serve
from commonplace.kafka.client import settings_for
from commonplace.kafka.topics import TopicFacts, Topics, require_topics
from commonplace.settings import Settings

TOPICS_CHECK_S: Final = 30.0
REBUILD_WAIT_S: Final = 1.0
DENIED_WAIT_S_MAX: Final = 30.0
"""Longest wait before another life, while each is refused before its hosts serve: a life writes a start record for every host."""

_LOG: Final = logging.getLogger(__name__)


def run(name: str, settings: Settings, drivers: Mapping[str, Driver]) -> None:
    """Serve the drivers' hosts until SIGTERM or SIGINT; a second SIGINT ends it at once. Blocks; raises what a person must act on."""
    stop = threading.Event()
    signals.obey(stop)
    figures = AgentFigures(name, settings.topics.pool)
    server = serve(settings.agent.http, figures.registry, figures.ready) if settings.agent.http else None
    if server is not None:
        _LOG.info("health and metrics on http://%s", server.address)
    crew = Crew(drivers)
    try:
        _run(name, settings, crew, figures, stop)
    finally:
        crew.close()
        if server is not None:
            server.close()


def _run(name: str, settings: Settings, crew: Crew, figures: AgentFigures, stop: threading.Event) -> None:
    waited, served, denied_s = "", False, REBUILD_WAIT_S
    while not stop.is_set():
        try:
            broker, facts, findings = require_topics(settings)
        except (NotReady, Denied) as e:
            if figures.rebuilds < 0:
                raise  # at the start a person is watching
            if waited != str(e):
                _LOG.error("not ready: %s", e)
            waited = figures.reason = str(e)
            stop.wait(REBUILD_WAIT_S)
            continue
        for finding in findings:
            _LOG.warning("%s", finding)
        changed, done = threading.Event(), threading.Event()
        if not broker.embedded:
            watch = threading.Thread(target=_watch_topics, args=(settings, facts, figures, changed, done), daemon=True)
            watch.start()
        agent = Agent(name, settings_for(settings, broker), facts, crew, figures, _either(stop, changed))
        try:
            agent.run()
        except Rebuild as e:
            figures.alarms += 1
            _LOG.error("starting all hosts anew: %s", e)
            stop.wait(REBUILD_WAIT_S)
        except Denied as e:
            if not (served or agent.serves):
                raise
            denied_s = REBUILD_WAIT_S if agent.serves else min(2 * denied_s, DENIED_WAIT_S_MAX)
            figures.alarms += 1
            figures.reason = str(e)
            _LOG.error("not ready, starting all hosts anew in %g s: %s", denied_s, e)
            stop.wait(denied_s)
        finally:
            done.set()
            served = served or agent.serves


def _watch_topics(
    settings: Settings,
    facts: Mapping[str, TopicFacts],
    figures: AgentFigures,
    changed: threading.Event,
    done: threading.Event,
) -> None:
    """Look at the topics from time to time: broken settings make us not ready, a topic made anew ends this life of the agent."""
    names = Topics(settings.topics.prefix, settings.topics.pool)
    told = ""
    while not done.wait(TOPICS_CHECK_S):
        try:
            _, now, _ = require_topics(settings)
        except CommonplaceError as e:
            if done.is_set():
                return  # of a life that is over: the next one looks for itself
            if told != str(e):
                _LOG.error("not ready: %s", e)
            told = figures.reason = str(e)
            continue
        if any(now[topic] != facts[topic] for topic in (names.hosts, names.claims, names.control)):
            _LOG.error("a topic was made anew")
            changed.set()
            return
        if told and figures.reason == told:
            told = figures.reason = ""


def _either(one: threading.Event, other: threading.Event) -> Callable[[], bool]:
    return lambda: one.is_set() or other.is_set()
