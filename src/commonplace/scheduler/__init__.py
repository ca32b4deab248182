"""The scheduler process: a replica's core between its topics."""
