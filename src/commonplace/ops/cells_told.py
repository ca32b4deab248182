"""A host's NUMA cells as `commonplace host show` tells them: what each has, and what of it is free."""

from typing import Any

from commonplace.core.cells import Cells
from commonplace.core.cpu_lists import text_of


def cells_told(cells: Cells) -> dict[str, dict[str, Any]]:
    """Every cell by name, in plain values; amounts in the unit of their class, cpus as lists."""
    return {
        name: {
            "cpus": text_of(cell.shared),
            "vcpus_used": cell.shared_used,
            "cpus_dedicated": text_of(cell.dedicated),
            "cpus_dedicated_free": text_of(cell.free_dedicated),
            "memory_mb": cell.memory_mb,
            "memory_used_mb": cell.memory_used_mb,
            "pages": {str(size): {"free": free, "total": total} for size, free, total in cell.pages},
            "devices": {d.id: {"class": d.resource_class, "free": d.free, "shares": d.shares} for d in cell.devices},
            "socket": cell.socket,
        }
        for name, cell in cells.items()
    }


def cell_line(told: dict[str, Any]) -> dict[str, Any]:
    """The same as one line of a table."""
    return {
        "cpus": told["cpus"] or None,
        "vcpus used": told["vcpus_used"],
        "dedicated free": f"{told['cpus_dedicated_free'] or 'none'} of {told['cpus_dedicated']}"
        if told["cpus_dedicated"]
        else None,
        "memory used": f"{told['memory_used_mb']} of {told['memory_mb']} MB",
        "pages free": {f"{size} kB": page["free"] for size, page in told["pages"].items()} or None,
        "devices free": {name: f"{one['free']} of {one['shares']}" for name, one in told["devices"].items()} or None,
    }
