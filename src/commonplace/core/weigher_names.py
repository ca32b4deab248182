"""Names of the weighers whose absolute scores are kept up to date host by host; apart, so that asks need not know the weighers."""

INCREMENTAL = frozenset({"cpu", "ram", "disk", "io_ops", "num_instances"})
"""Each has a column form in weighers.py."""
