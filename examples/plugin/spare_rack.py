"""A filter that keeps racks labelled `spare` for project `ops`, and a weigher that prefers hosts with little vcpu oversubscription."""

from commonplace.plugins import Row, View, Wishes, fact


def spare_rack(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts outside spare racks; any for project ops."""
    return "is spare" if fact(row, "spare") == "true" and wishes.build.project != "ops" else ""


def vcpu_headroom(view: View, row: Row, wishes: Wishes) -> float:
    """Vcpus that the host has beyond those in use, before any ratio."""
    return float(fact(row, "vcpus_total") - fact(row, "vcpus_used"))
