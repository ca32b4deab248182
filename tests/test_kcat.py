"""docs/kcat.md, run block by block with kcat against a broker and a scripted replica."""

import re
import subprocess
from pathlib import Path

from commonplace.core.codec import Bad, decode
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Confirm, Release
from commonplace.core.records.control import Flavor, HostControl
from commonplace.core.records.requests import Build, Cancel
from commonplace.frontend import history
from commonplace.kafka import client
from commonplace.settings import Settings
from frontend_world import HOST, fake_replica, make_topics, settings_on
from kafka_fixtures import KafkaUnderTest, needs_kcat

PAGE = Path(__file__).parent.parent / "docs" / "kcat.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def run_page(settings: Settings, directory: Path) -> "subprocess.CompletedProcess[str]":
    script = "set -eu\n" + "\n".join(BLOCKS)
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "B": settings.bootstrap,
        "PREFIX": settings.topics.prefix,
        "POOL": settings.topics.pool,
    }
    return subprocess.run(
        ["bash", "-c", script], env=env, cwd=directory, capture_output=True, text=True, timeout=100, check=False
    )


@needs_kcat
def test_the_page_submits_confirms_releases_cancels_and_operates(
    kafka: KafkaUnderTest, prefix: str, tmp_path: Path
) -> None:
    settings = settings_on(kafka, prefix)
    make_topics(kafka, settings)
    with fake_replica(settings) as replica:
        done = run_page(settings, tmp_path)
        assert done.returncode == 0, done.stderr
        for _ in range(200):
            if len(replica.claims) == 2 and len(replica.requests) == 3:
                break
            replica.pause(0.05)
    here = partition_of("kcat.small", settings.topics.requests_partitions)
    assert replica.requests == [
        (here, b"kcat.small", Build(id="order-1", flavor="kcat.small", project="shop")),
        (here, b"kcat.small", Build(id="order-2", flavor="kcat.small", count=2)),
        (here, b"kcat.small", Cancel(id="order-2", flavor="kcat.small")),
    ]
    allocation = "a-order-1-0"
    assert replica.claims == [
        Confirm(host=HOST, request="order-1", allocation=allocation),
        Release(host=HOST, request="order-1", allocation=allocation),
    ]
    assert replica.claim_partitions == {partition_of(HOST, settings.topics.claims_partitions)}
    assert '"confirmed"' in done.stdout
    _control_is_as_the_page_left_it(settings)


def _control_is_as_the_page_left_it(settings: Settings) -> None:
    topic = f"{settings.topics.prefix}.control"
    reader = client.consumer(settings)
    start = history.since(reader, settings, topic, [0], None)
    stop = history.ends(reader, settings, topic, [0])
    reader.close()
    rows = [row for _, batch in history.read(settings, topic, start, stop) for row in batch]
    values = [(key, decode("control", value) if value is not None else None) for _, _, key, value in rows]
    assert not [v for _, v in values if isinstance(v, Bad)]
    flavors = [v for key, v in values if key == b"flavor/kcat.small"]
    assert isinstance(flavors[0], Flavor)
    assert flavors[-1] is None
    hosts = [v.status for key, v in values if key == b"host/host-0001" and isinstance(v, HostControl)]
    assert hosts == ["disabled", "enabled"] * 2  # said, and written back as it was kept


def test_every_record_on_the_page_is_one_of_the_protocol() -> None:
    found = re.findall(r"echo '(\{.*?\})'", "\n".join(BLOCKS))
    assert len(found) >= 6
    for text in found:
        kinds = [decode(topic, text.encode()) for topic in ("requests", "claims", "control")]
        assert [k for k in kinds if not isinstance(k, Bad)], text
