"""Whether an instance may be built anew, from another image, where it stands: asked of what the host is, not of what it has free.

Nothing is claimed: the instance's allocation stays as it is. A host that takes no new instances (disabled, draining) goes on with
those it has.
"""

from typing import Final

from commonplace.core.filters import liveness, traits
from commonplace.core.rules import Wishes
from commonplace.core.view import View

ASKED: Final = frozenset({"image_properties", "isolated_hosts", "aggregate_image_properties_isolation"})
"""Filters that another image may fail; what the flavor asks was settled when the instance was placed."""


def objection(view: View, wishes: Wishes) -> str:
    """Why the host that the request names would not do for its image, or ""."""
    row = view.rows.get(wishes.build.host)
    if row is None or row.host.removed:
        return f"host {wishes.build.host} is not known: see `commonplace hosts`"
    if row.host.stale:
        return f"host {row.host.name} is stale: {row.host.stale}"
    why = liveness(view, row, wishes.ask) or traits(view, row, wishes.ask)
    asked = (one for one in wishes.concerned() if one.name in ASKED)
    why = why or next((said for one in asked if (said := one.plain(view, row, wishes))), "")
    return f"host {row.host.name} {why}" if why else ""
