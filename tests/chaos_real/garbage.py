"""Records that nobody may use: broken copies of real ones, under keys that mean something."""

import json
import random
from collections.abc import Callable
from typing import Final, NamedTuple

from chaos_real.scene import Scene
from commonplace.core.partition import partition_of
from commonplace.ops.audit import Entry

DEEP: Final = b"[" * 50_000
TOO_LARGE: Final = 1_010_000
"""Bytes; more than any reader takes, less than the broker refuses."""


class Bad(NamedTuple):
    """A record to be written to one topic."""

    key: bytes | None
    value: bytes | None
    partition: int


def _cut(value: bytes, rng: random.Random) -> bytes:
    return value[: rng.randrange(1, len(value) - 1)]


def _padded(value: bytes, _: random.Random) -> bytes:
    return value[:-1] + b', "padding": "' + b"x" * TOO_LARGE + b'"}'


def _of_no_type(value: bytes, rng: random.Random) -> bytes:
    return json.dumps({**json.loads(value), "type": rng.choice(["teapot", 17, None, ""])}).encode()


BREAKS: Final[tuple[Callable[[bytes, random.Random], bytes | None], ...]] = (
    _cut,
    _padded,
    _of_no_type,
    lambda value, _: b"\xff\xfe" + value,
    lambda value, _: value + b"}",
    lambda value, _: DEEP,
    lambda value, _: value[:-1] + b', "deep": ' + DEEP,
    lambda value, rng: rng.choice([b"17", b'"text"', b"null", b"[]", b"\x00" * 40]),
    lambda value, _: b"",
)

NO_VALUE: Final = ("requests", "claims", "decisions")
"""Topics whose records are events: one without a value is no deletion, but broken."""


def records(topic: str, scene: Scene, count: int, rng: random.Random, hosts: str) -> list[Bad]:
    """So many broken records for a topic, each one that no reader can take for a good one; on `hosts` of those whose names begin so."""
    return [bad for _ in range(count) if (bad := _one(topic, scene, rng, hosts)) is not None]


def _one(topic: str, scene: Scene, rng: random.Random, hosts: str) -> Bad | None:
    entries = scene.some(topic)
    if not entries:
        return Bad(b"key", DEEP[:100], 0)
    like = rng.choice(entries)
    if topic == "hosts":
        return _host_record(scene, like, rng, hosts)
    if topic == "control":
        # under a flavor's own key it would take the flavor from whoever starts after the next compaction
        like = like._replace(key=b"flavor/junk-%d" % rng.randrange(4))
    if topic in NO_VALUE and rng.random() < 0.1:
        return Bad(like.key, None, like.partition)
    return Bad(like.key, rng.choice(BREAKS)(like.value or b"{}", rng), like.partition)


def _host_record(scene: Scene, like: Entry, rng: random.Random, hosts: str) -> Bad | None:
    """Under a living agent's own keys, which it answers with a snapshot; or under a key that is no key."""
    host = rng.choice([name for name in scene.hosts() if name.startswith(hosts)])
    epoch = scene.epoch(host)
    partition = partition_of(host, 4)
    value = rng.choice(BREAKS)(like.value or b"{}", rng)
    kind = rng.randrange(4)
    if kind == 0:
        return Bad(f"{host}/{epoch}".encode(), value, partition)
    if kind == 1:
        return Bad(f"{host}/{epoch}/delta".encode(), value, partition)
    if kind == 2:  # a good record where it does not belong
        return Bad(like.key, like.value, (like.partition + 1) % 4)
    return Bad(b"no/key/at/all", value, rng.randrange(4))


def repeated(scene: Scene, count: int, rng: random.Random) -> list[Bad]:
    """Requests that stand in the log already, once more: a client's retry, or a producer's."""
    entries = [entry for entry in scene.some("requests") if _is_good(entry)]
    return [Bad(entry.key, entry.value, entry.partition) for entry in rng.choices(entries, k=count)] if entries else []


def reused(scene: Scene, count: int, rng: random.Random) -> list[Bad]:
    """Ids of requests that stand in the log, with other content."""
    found = []
    for bad in repeated(scene, count, rng):
        build = json.loads(bad.value or b"{}")
        if build.get("type") == "build":
            found.append(Bad(bad.key, json.dumps({**build, "user": f"u{rng.randrange(1000)}"}).encode(), bad.partition))
    return found


def _is_good(entry: Entry) -> bool:
    """Whether it is a record of a frontend, not one of ours: its flavor is its key's."""
    record = json.loads(entry.value or b"null")
    return record.get("type") in ("build", "cancel") and (entry.key or b"").startswith(
        str(record.get("flavor")).encode()
    )
