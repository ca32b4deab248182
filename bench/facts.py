"""What a figure was measured on, and what it cost: the machine's facts, CPU time per process tree."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


def machine() -> dict[str, Any]:
    """Cores, model, memory, versions."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "kernel": platform.release(),
        **{name: version(name) for name in ("confluent-kafka", "msgspec", "numpy")},
    }


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and its children so far; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return float(sum(sum(member.cpu_times()[:2]) for member in family))
    except psutil.NoSuchProcess:
        return 0.0


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    return int(psutil.Process(pid).memory_info().rss)


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p90, p99 and the maximum of milliseconds."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {f"p{p}": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 2) for p in (50, 90, 99)}
    return {**at, "max": round(ordered[-1], 2)}
