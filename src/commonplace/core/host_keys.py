"""Keys of the hosts topic: `host/start`, `host/EPOCH` and `host/EPOCH/delta`."""

from typing import Final

NO_EPOCH: Final = -1

START_SUFFIX: Final = b"/start"
DELTA_SUFFIX: Final = b"/delta"


class Key:
    """A parsed key of the hosts topic: `host/start`, `host/EPOCH` or `host/EPOCH/delta`."""

    __slots__ = ("epoch", "host", "kind")

    def __init__(self, host: str, kind: str, epoch: int) -> None:
        self.host, self.kind, self.epoch = host, kind, epoch


def parse_key(key: bytes | None) -> Key | None:
    """Parse a key of `hosts`; None when it is none."""
    try:
        parts = key.decode("ascii").split("/") if key else []
    except UnicodeDecodeError:
        return None
    if len(parts) == 2 and parts[1] == "start":
        return Key(parts[0], "start", NO_EPOCH)
    if len(parts) in (2, 3) and parts[1].isdigit() and len(parts[1]) <= 16 and (len(parts) == 2 or parts[2] == "delta"):
        return Key(parts[0], "delta" if len(parts) == 3 else "snapshot", int(parts[1]))
    return None


def start_key(host: str) -> bytes:
    """Key of a host's start records."""
    return f"{host}/start".encode()


def snapshot_key(host: str, epoch: int) -> bytes:
    """Key of a host's snapshots in one epoch."""
    return f"{host}/{epoch}".encode()


def delta_key(host: str, epoch: int) -> bytes:
    """Key of a host's deltas in one epoch."""
    return f"{host}/{epoch}/delta".encode()
