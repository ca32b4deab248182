"""The Java that runs a local broker."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from commonplace.kafka.jars import BrokerError

JAVA_VERSION_MIN = 17
VERSION_TIMEOUT_S = 30.0


class JavaMissing(BrokerError):
    """No Java was found."""


class JavaTooOld(BrokerError):
    """The Java that was found can't run this Kafka."""


def find_java() -> str:
    """Return the path of a `java` that can run Kafka, `$JAVA_HOME` first. Raises JavaMissing, JavaTooOld."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else None
    java = java or shutil.which("java")
    remedy = f"install Java >= {JAVA_VERSION_MIN} (Debian: apt install openjdk-17-jre-headless) or use --embedded"
    if java is None:
        raise JavaMissing(f"no java on PATH or in JAVA_HOME: {remedy}")
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, errors="replace", timeout=VERSION_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise JavaMissing(f"{java} -version did not end within {VERSION_TIMEOUT_S:g} s: {remedy}") from None
    said = done.stderr
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None:
        raise JavaMissing(f"{java} -version printed no version: {remedy}")
    if int(found[1]) < JAVA_VERSION_MIN:
        raise JavaTooOld(f"{java} is version {found[1]}, Kafka needs {JAVA_VERSION_MIN}: {remedy}")
    return java
