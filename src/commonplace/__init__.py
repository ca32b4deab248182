"""A shared-state placement scheduler on Kafka. docs/architecture.md has the map."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("commonplace")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
