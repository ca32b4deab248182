"""Ports on loopback for a local broker."""

import fcntl
import os
import random
import socket
import stat
import tempfile
from collections import deque
from pathlib import Path
from typing import IO, Final

from commonplace.kafka.jars import BrokerError

# Below Linux's ephemeral range (32768 ..), so that no outgoing connection takes the port while the broker is down.
PORTS = range(20_000, 32_000)


KEPT_MAX: Final = 256
"""So many of the newest picks are kept from others: each costs an open file."""

_kept: Final[deque[IO[str]]] = deque()


class PortInUse(BrokerError):
    """Somebody else listens on the port that was asked for."""


def free_port(taken: int | None = None) -> int:
    """Return a port on loopback that nobody holds now, outside the ephemeral range, and not `taken`.

    It is kept from other processes of ours for as long as this one lives: whoever it is for listens seconds later only.
    """
    for port in random.sample(PORTS, min(100, len(PORTS))):
        if port != taken and is_free(port) and _keep(port):
            return port
    raise PortInUse(f"no free port among 100 tried from {PORTS.start} to {PORTS.stop}: name one with --port")


def _keep(port: int) -> bool:
    """Lock a file that stands for the port; False where another process has. Where no file can be made nothing is kept."""
    directory = Path(tempfile.gettempdir()) / f"commonplace-ports-{os.getuid()}"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if not _private(directory):
            return True
        file = os.fdopen(os.open(directory / str(port), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _kept.append(file)
    if len(_kept) > KEPT_MAX:
        _kept.popleft().close()
    return True


def _private(directory: Path) -> bool:
    """Whether it is ours alone: the name can be guessed, and whoever made it first could lay links to files of ours there."""
    found = directory.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def require_free(port: int) -> None:
    """Raise PortInUse where somebody listens on that port of loopback."""
    if not is_free(port):
        raise PortInUse(f"port {port} on 127.0.0.1 is in use: stop what listens there or choose another --port")


def is_free(port: int) -> bool:
    """Return whether a broker could listen on that port of loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the JVM does: connections of a broker that was killed linger, and don't matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
