"""What operators do with a pool beyond running it: audit, replay of traces, rendering."""
