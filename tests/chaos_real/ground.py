"""The broker of a run: one listener a client, so that each has a link of its own, on a small disk where that is allowed."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from chaos_real.cast import is_root
from chaos_real.proxy import Link
from chaos_real.topics import SILENT
from commonplace.kafka.broker import LocalBroker
from commonplace.kafka.ports import free_port
from commonplace.kafka.topics import Topics
from kafka_fixtures import TEST_JAVA_OPTIONS, TEST_PROPERTIES

DISK_MB: Final = 3_000
SET_S: Final = 10.0


def ports(count: int) -> list[int]:
    """So many free ports, all different."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def make(data_dir: Path, names: Iterable[str]) -> tuple[LocalBroker, dict[str, Link]]:
    """A broker, not yet started, and the links that its listeners advertise."""
    names = list(names)
    direct, controller, *rest = ports(2 + 2 * len(names))
    links = {name: Link(name, rest[2 * i], rest[2 * i + 1]) for i, name in enumerate(names)}
    kinds = ["CONTROLLER", "PLAINTEXT", *(name.upper() for name in names)]
    listeners = [f"{name.upper()}://127.0.0.1:{link.target}" for name, link in links.items()]
    advertised = [f"{name.upper()}://127.0.0.1:{link.port}" for name, link in links.items()]
    properties = {
        **TEST_PROPERTIES,
        "listeners": ",".join([f"PLAINTEXT://127.0.0.1:{direct}", *listeners, f"CONTROLLER://127.0.0.1:{controller}"]),
        "advertised.listeners": ",".join([f"PLAINTEXT://127.0.0.1:{direct}", *advertised]),
        "listener.security.protocol.map": ",".join(f"{kind}:PLAINTEXT" for kind in kinds),
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
    }
    return LocalBroker(data_dir, direct, java_options=TEST_JAVA_OPTIONS, properties=properties), links


def compact_at_once(broker: LocalBroker, names: Topics, min_lag_ms: int) -> None:
    """Tiny segments, cleaned as soon as they may be: compaction goes on during the whole run."""
    small = {"segment.ms": "2000", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": str(min_lag_ms)}
    resources = []
    for topic in (names.hosts, names.control, names.replicas):
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in small.items()]
        resources.append(ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries))
    admin = AdminClient({"bootstrap.servers": broker.bootstrap}, logger=SILENT)
    for future in admin.incremental_alter_configs(resources).values():
        future.result(SET_S)


class Disk:
    """A file system of its own for the broker's data, to be filled; `why_not` says why there is none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.why_not = "" if is_root() else "mounting a small tmpfs takes root"
        directory.mkdir(parents=True)
        if not self.why_not:
            options = ("-t", "tmpfs", "-o", f"size={DISK_MB}m", "chaos", str(directory))
            done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
            self.why_not = f"mount: {done.stderr.strip()}" if done.returncode else ""

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        zeros = bytes(1 << 20)
        with self._ballast.open("wb", buffering=0) as file:
            for piece in (zeros, zeros[:4096]):
                try:
                    while True:
                        file.write(piece)
                except OSError:
                    continue

    def clear(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount; what was on it is gone."""
        if not self.why_not:
            subprocess.run(["umount", "-l", str(self.directory)], check=True)
