"""Commands that a driver runs: templates of argument lists, and processes that nobody waits for."""

import difflib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence

from commonplace.core.records.hosts import Allocation
from commonplace.errors import SettingsError

OUTPUT_BYTES_MAX = 16 * 2**20
"""Most output read from one command: a list of 50,000 instances."""

WHY_CHARS_MAX = 100
"""Most of a command's last line that a failure repeats; its reason must fit a record's short string."""

WORDS = (
    "instance",
    "allocation",
    "request",
    "flavor",
    "project",
    "user",
    "group",
    "vcpus",
    "memory_mb",
    "disk_gb",
    "cpus",
    "numa_nodes",
    "devices",
)
_BRACES = re.compile(r"\{(\w*)\}")


def check_template(setting: str, template: Sequence[str]) -> None:
    """SettingsError when a template names a word that no allocation has."""
    for part in template:
        for word in _BRACES.findall(part):
            if word not in WORDS:
                nearest = difflib.get_close_matches(word, WORDS, n=1, cutoff=0.0)[0]
                raise SettingsError(f"{setting}: {part!r}: unknown {{{word}}}; the nearest known is {{{nearest}}}")


def expand(template: Sequence[str], allocation: Allocation) -> list[str]:
    """The argument list for an allocation. Values are put in whole, never read again as template, option or shell."""
    values = {
        "instance": allocation.instance,
        "allocation": allocation.id,
        "request": allocation.request,
        "flavor": allocation.flavor,
        "project": allocation.project,
        "user": allocation.user,
        "group": allocation.group,
        "vcpus": str(allocation.resources.get("VCPU", 0)),
        "memory_mb": str(allocation.resources.get("MEMORY_MB", 0)),
        "disk_gb": str(allocation.resources.get("DISK_GB", 0)),
        "cpus": ",".join(given.cpus for given in (allocation.assigned or {}).values() if given.cpus),
        "numa_nodes": ",".join(sorted(name for name in allocation.cells if name.isdigit())),
        "devices": ",".join(
            sorted(device for given in (allocation.assigned or {}).values() for device in given.devices)
        ),
    }
    return [_BRACES.sub(lambda match: values[match[1]], part) for part in template]


class Command:
    """A process begun and asked after; OSError when it can't begin. `name` is the caller's own."""

    def __init__(self, argv: Sequence[str], name: str, timeout_s: float) -> None:
        self.name = name
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        # files, not pipes: a pipe that nobody reads fills at 64 KB and stops the command
        self._stdout = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the command has ended
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._argv = list(argv)
        self.output = b""
        try:
            # a session of its own: Ctrl-C on the agent is no Ctrl-C on an instance, and its children end with it
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=self._stdout, stderr=self._stderr, start_new_session=True
            )
        except OSError:
            self._close()
            raise

    def ended(self) -> str | None:
        """None while it runs, "" after exit 0, else why it failed. Ends it when its time is up."""
        code = self._process.poll()
        if code is None:
            if time.monotonic() < self._deadline:
                return None
            self.kill()
            return f"no end within {self._timeout_s:g} s, killed"
        self._stdout.seek(0)
        self.output = self._stdout.read(OUTPUT_BYTES_MAX + 1)
        why = "" if code == 0 else self._why(code)
        self._close()
        return why or (f"more than {OUTPUT_BYTES_MAX} bytes of output" if len(self.output) > OUTPUT_BYTES_MAX else "")

    def kill(self) -> None:
        """End it and its children now; blocks until it is gone."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._close()

    def _why(self, code: int) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read(OUTPUT_BYTES_MAX).decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        said = "".join(c for c in said if c.isprintable())[:WHY_CHARS_MAX]
        return f"exit {code}: {said}" if said else f"exit {code}"

    def _close(self) -> None:
        self._stdout.close()
        self._stderr.close()
