"""What a figure was measured on, and what it cost: the machine's facts, CPU time per process tree."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

PACKAGES: Final = ("commonplace", "confluent-kafka", "msgspec", "numpy")


def machine() -> dict[str, Any]:
    """Cores, model, memory, versions."""
    return {
        "cores": os.cpu_count(),
        "cpu": _model(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and its children so far; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return float(sum(sum(member.cpu_times()[:2]) for member in family))
    except psutil.NoSuchProcess:
        return 0.0


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    process = psutil.Process(pid)
    return sum(int(member.memory_info().rss) for member in (process, *process.children(recursive=True)))


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p90, p99 and the maximum of milliseconds; None where there are none."""
    ordered = sorted(values)
    if not ordered:
        return dict.fromkeys(("p50", "p90", "p99", "max"))
    at = {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 2) for p in (50, 90, 99)}
    return {**at, "max": round(ordered[-1], 2)}


def cpu_us(work: Callable[[], object]) -> float:
    """CPU time of one call in this process, in µs."""
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1_000
