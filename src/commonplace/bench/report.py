"""A report for a person: one line a figure, the machine's facts first. A machine reads the report itself."""

from collections.abc import Mapping
from typing import Any, Final

from commonplace.words import counted, figure

VERSIONS: Final = ("python", "commonplace", "confluent-kafka", "msgspec", "numpy")
UNITS: Final = {"us": "µs", "ms": "ms", "s": "s", "mib": "MiB", "bytes": "bytes"}
LEFT_OUT: Final = ("machine", "benchmark", "audit", "packing", "hosts_used", "settings", "by_placement", "claims")


def lines(report: Mapping[str, Any]) -> dict[str, Any]:
    """Label → what is printed beside it, in the order to read."""
    machine = report["machine"]
    told: dict[str, Any] = {
        "benchmark": report["benchmark"],
        "machine": f"{counted(machine['cores'], 'core')}, {machine['cpu']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}",
        "versions": _pairs({name: machine[name] for name in VERSIONS}),
    }
    for name, value in report.items():
        if name not in LEFT_OUT:
            told[label(name)] = _pairs(value) if isinstance(value, dict) else value
    for placement, figures in report.get("by_placement", {}).items():
        for name, value in figures.items():
            told[f"{placement}: {label(name)}"] = _pairs(value) if isinstance(value, dict) else value
    if "packing" in report:
        told["hosts used"] = f"{report['hosts_used']} of {report['hosts']}"
        told["allocated"] = _pairs(report["packing"]["at_end"])
    if "claims" in report:
        told["claims"] = _pairs(report["claims"])
    if "audit" in report:
        told["audit"] = report["audit"]["audit"]
    return told


def label(name: str) -> str:
    """A figure's name in words, its unit last: `cpu_us_a_decision` → cpu a decision, µs."""
    words = name.replace("_per_s", "/s").split("_")
    units = [UNITS[word] for word in words if word in UNITS]
    return " ".join(word for word in words if word not in UNITS) + "".join(f", {unit}" for unit in units)


def _pairs(values: Mapping[str, Any]) -> str:
    """Each name and its value, two spaces between."""
    return "  ".join(f"{name} {_text(value)}" for name, value in values.items()) or "none"


def _text(value: Any) -> str:
    match value:
        case None:
            return "–"
        case list():
            return "[" + ", ".join(map(_text, value)) + "]"
        case float():
            return figure(value)
        case _:
            return str(value)
