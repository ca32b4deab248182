"""Apache Kafka's jars: fetched once with Maven, kept in the user's cache, verified before every use."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from commonplace.errors import CommonplaceError

KAFKA_VERSION = "4.3.1"
# The slf4j API that Kafka 4.3 pulls in is 1.7; a binding of 2.x would not be found and the broker would log nothing.
SLF4J_VERSION = "1.7.36"
# 44 MB took 6 s on a fast line; ten minutes is 75 kB/s.
FETCH_TIMEOUT_S = 600

MANIFEST = "MANIFEST.sha256"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>commonplace</groupId>
  <artifactId>broker</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>{SLF4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

log = structlog.get_logger(__name__)


class BrokerError(CommonplaceError):
    """A broker can't be had here; the message is one line that says what to do."""


class MavenMissing(BrokerError):
    """The jars are not in the cache and there is no Maven to fetch them."""


class FetchFailed(BrokerError):
    """Maven ran and did not deliver the jars."""


def cache_dir() -> Path:
    """Return where the jars of this Kafka version live: `$XDG_CACHE_HOME` or `~/.cache`, then `commonplace`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "commonplace" / f"kafka-{KAFKA_VERSION}"


def ensure_jars(directory: Path | None = None) -> Path:
    """Return a directory with Kafka's verified jars; fetch them first where they are absent or damaged.

    Blocks for seconds on the first use, and while another process fetches. Raises MavenMissing, FetchFailed.
    """
    directory = directory or cache_dir()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_name(directory.name + ".lock")):
        damage = find_damage(directory)
        if damage:
            _fetch(directory, damage)
    return directory


def find_damage(directory: Path) -> str | None:
    """Return why the cached jars can't be used, None when they are complete and unchanged."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return f"no {MANIFEST} in {directory}"
    recorded = _parse_manifest(manifest.read_text())
    if recorded.get("pom.xml") != hashlib.sha256(POM.encode()).hexdigest():
        return f"{directory} was fetched for other versions"
    for name, digest in recorded.items():
        path = directory / name
        if not path.is_file():
            return f"{path} is missing"
        if _sha256(path) != digest:
            return f"{path} has changed since it was fetched"
    return None


def _fetch(directory: Path, damage: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MavenMissing(
            f"no Kafka jars ({damage}) and no mvn on PATH to fetch them:"
            " install Maven (Debian: apt install maven), or use the embedded broker (--embedded)"
        )
    log.info("fetching Apache Kafka, once", version=KAFKA_VERSION, into=str(directory), because=damage)
    # A fetch cut short leaves only a directory that nobody looks at; the rename below is the moment it counts.
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f"{directory.name}.part-") as scratch:
        fresh = Path(scratch) / "jars"
        fresh.mkdir()
        (fresh / "pom.xml").write_text(POM)
        _run_maven(maven, fresh)
        (fresh / MANIFEST).write_text(
            "".join(f"{_sha256(path)}  {path.name}\n" for path in sorted(fresh.iterdir()) if path.name != MANIFEST)
        )
        if directory.exists():
            shutil.rmtree(directory)
        fresh.rename(directory)


def _run_maven(maven: str, into: Path) -> None:
    # --strict-checksums: what arrives damaged is refused, not warned about.
    command = [maven, "-q", "-B", "--strict-checksums", "-f", str(into / "pom.xml"), "dependency:copy-dependencies"]
    command += [f"-DoutputDirectory={into}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(command, cwd=into, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(
            f"mvn did not fetch Kafka {KAFKA_VERSION} within {FETCH_TIMEOUT_S} s: check the network and try again"
        ) from error
    if done.returncode != 0 or not list(into.glob("kafka_2.13-*.jar")):
        said = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
        raise FetchFailed(
            f"mvn could not fetch Kafka {KAFKA_VERSION} (exit {done.returncode}): {said[0]};"
            " check the network and Maven's settings.xml, or use the embedded broker (--embedded)"
        )


def _parse_manifest(text: str) -> dict[str, str]:
    pairs = (line.split("  ", 1) for line in text.splitlines() if "  " in line)
    return {name: digest for digest, name in pairs}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it if this process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
