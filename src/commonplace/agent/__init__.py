"""The compute side: what a host has, what runs on it, and the ledger that settles claims."""
