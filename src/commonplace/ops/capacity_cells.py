"""Room for flavors that lie on NUMA cells: no division tells it, so instances are placed one by one on a copy of the pool."""

import numpy as np

from commonplace.core.catalog import Catalog
from commonplace.core.columns import Ints
from commonplace.core.records.requests import Build
from commonplace.core.view import View
from commonplace.ops import plan_copy
from commonplace.ops.capacity import Count
from commonplace.ops.plan import FILL_MAX, bounds_of
from commonplace.ops.plan_copy import Copy
from commonplace.ops.plan_trial import Trial
from commonplace.settings import Settings


def counter(settings: Settings) -> Count:
    """A counter that copies the pool when it is first asked, and fills a fresh trial for each flavor."""
    copies: list[Copy] = []

    def count(view: View, catalog: Catalog, build: Build) -> Ints:
        if not copies:
            copies.append(plan_copy.read(settings))
        found = np.zeros(view.columns.rows, np.int64)
        for host, instances in Trial(copies[0], bounds_of(settings)).fill(build, FILL_MAX).hosts.items():
            if host in view.rows:
                found[view.rows[host].index] = instances
        return found

    return count
