"""`commonplace broker`: a broker for development, on loopback, until it is told to stop."""

import contextlib
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from commonplace.cli import common
from commonplace.cli.output import say
from commonplace.errors import CommonplaceError, UsageError

if TYPE_CHECKING:
    from commonplace.settings import Settings

app = typer.Typer()

ALIVE_CHECK_S = 0.5
PORT_DEFAULT = 9092  # Kafka's own, so that every other command finds it without -b


@app.command(epilog="\b\nExample:\n  commonplace broker --data-dir ~/kafka &\n  commonplace topics create")
def broker(
    embedded: bool = typer.Option(False, "--embedded", help="librdkafka's mock: needs no Java, and is not Kafka."),
    data_dir: Path | None = typer.Option(
        None, metavar="DIR", help="Keep data here over restarts; else it is temporary."
    ),
    port: int | None = typer.Option(
        None, min=0, max=65535, metavar="N", help=f"Port on 127.0.0.1; {PORT_DEFAULT} unless told, 0: any free one."
    ),
) -> None:
    """Run a local Apache Kafka (Java 17 or newer) in the foreground; the first line on stdout is its address.

    SIGTERM and Ctrl-C stop it. With --embedded the topics of --prefix and --pool are made at once.
    """
    settings = common.settings()
    stop = _stop_on_signals()
    if embedded:
        if data_dir is not None or port is not None:
            raise UsageError("--embedded keeps nothing and chooses its own port: leave out --data-dir and --port")
        _run_embedded(settings, stop)
    else:
        _run_kafka(data_dir, PORT_DEFAULT if port is None else port, stop)


def _run_kafka(data_dir: Path | None, port: int, stop: threading.Event) -> None:
    from commonplace.kafka.broker import LocalBroker

    with LocalBroker(data_dir=data_dir, port=port or None) as running:
        print(running.bootstrap, flush=True)
        say(f"Apache Kafka, one node, data in {running.data_dir}; stop with Ctrl-C")
        while not stop.wait(ALIVE_CHECK_S):
            if not running.alive:
                raise CommonplaceError(f"the broker on {running.bootstrap} ended by itself: see {running.log_path}")


def _run_embedded(settings: "Settings", stop: threading.Event) -> None:
    from commonplace.kafka.embedded import EmbeddedBroker
    from commonplace.kafka.topic_creation import create_embedded

    with EmbeddedBroker() as running:
        made = create_embedded(running, settings)
        print(running.bootstrap, flush=True)
        say(f"embedded broker: not Kafka, keeps nothing; {len(made)} topics made; stop with Ctrl-C")
        while not stop.wait(ALIVE_CHECK_S):
            pass


def _stop_on_signals() -> threading.Event:
    """An event set by the first SIGTERM or SIGINT; a second SIGINT interrupts at once."""
    stop = threading.Event()

    def handle(number: int, _: object) -> None:
        if number == signal.SIGINT and stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not the main thread: a test calls us, and nobody sends signals
            signal.signal(number, handle)
    return stop
