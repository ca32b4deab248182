"""Fuzzing of everything that reads the topics: no bytes may let anything escape, grow without bound, or take long."""
