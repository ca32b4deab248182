"""Names of the weighers whose absolute scores are kept up to date host by host; apart, so that asks need not know the weighers."""

INCREMENTAL = frozenset({"cpu", "ram", "disk", "io_ops", "num_instances", "fgd"})
"""Each has a column form in weighers.py."""

BY_MIX = frozenset({"fgd"})
"""Those of them that go by the mix of flavors, which the rules hold, so that their profile's requests have rules."""
