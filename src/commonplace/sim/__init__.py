"""A deterministic world that runs the shipped cores under one seed, with every fault, and judges them by the log alone."""
