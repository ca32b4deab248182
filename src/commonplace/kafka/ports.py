"""Ports on loopback for a local broker."""

import random
import socket

from commonplace.kafka.jars import BrokerError

# Below Linux's ephemeral range (32768 ..), so that no outgoing connection takes the port while the broker is down.
PORTS = range(20_000, 32_000)


class PortInUse(BrokerError):
    """Somebody else listens on the port that was asked for."""


def free_port(taken: int | None = None) -> int:
    """Return a port on loopback that nobody holds now, outside the ephemeral range, and not `taken`."""
    for port in random.sample(PORTS, 100):
        if port != taken and is_free(port):
            return port
    raise PortInUse(f"no free port among 100 tried from {PORTS.start} to {PORTS.stop}: name one with --port")


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
