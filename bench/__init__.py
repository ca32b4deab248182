"""Benchmarks of the whole loop on real Kafka; each prints its figures with the machine's facts. Never part of the tests."""
