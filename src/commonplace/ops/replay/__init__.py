"""Replay of a trace: read it, send it through the frontend library in its own order, and say what became of it."""
