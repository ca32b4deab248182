"""Chaos on real processes: a real Kafka, replicas, agents and frontends under load, and faults drawn from a seed.

    plan ── injections ──▶ faults ──▶ processes, broker, links, topics
                                          │
    judge ◀── histories of the clients, every record of every topic (tap), what the processes said

`python -m chaos_real run` makes a directory that holds all of it; `python -m chaos_real audit DIR` judges such a directory again.
"""
