"""Decisions of other schedulers, recorded as data, held against ours."""
