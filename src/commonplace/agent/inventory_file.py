"""The inventory file of the `static` driver: TOML, one table a host.

[hosts.node-1]
traits = ["HW_CPU_X86_AVX2"]
labels = { zone = "z1", rack = "r07" }
found_file = "node-1.running.json"          # beside this file; read again whenever it changes

[hosts.node-1.inventory.VCPU]
total = 64
reserved = 4
allocation_ratio = 4.0                      # at most three decimals

[hosts.node-1.cells.0]                      # a NUMA cell; classes that [inventory] does not name are the cells' sum
cpus = "0-7"                                # shared (VCPU)
cpus_dedicated = "8-15"                     # one instance has each to itself (PCPU)
siblings = ["8,9", "10,11", "12,13", "14,15"]
memory_mb = 65536
pages = { 2048 = 4096 }                     # size in kB = how many
devices = [{ id = "0000:3b:00.0", vendor = "8086", product = "1520" }]    # class CUSTOM_PCI_8086_1520 unless it names one

[[hosts.node-1.found]]                      # runs already, started by somebody else
instance = "vm-17"
resources = { VCPU = 4, MEMORY_MB = 8192 }
"""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from commonplace.agent.drivers import Found, StaticDriver
from commonplace.core.codec import encode
from commonplace.core.complaints import complaint
from commonplace.core.inventory_of_cells import inventory_of
from commonplace.core.records.fields import ClassName, HostName, Labels, Traits
from commonplace.core.records.hosts import HostCell, HostCells
from commonplace.core.resources import Inventory, ratio_thousandths
from commonplace.errors import SettingsError
from commonplace.files import read_tree

HOSTS_MAX = 100_000
"""Most hosts in one file; ten times what one agent has been run with."""

CELLS_BYTES_MAX = 200_000
"""Largest cells of one host in a report: a fifth of RECORD_BYTES_MAX, so that there is room for allocations."""


class StaticHost(Struct, frozen=True, kw_only=True):
    """One host as written in the file; `found` says what runs there now, None where nobody looks."""

    inventory: dict[str, Inventory]
    traits: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    found: Callable[[], tuple[Found, ...]] | None = None
    cells: dict[str, HostCell] = {}

    def driver(self, *, boot_s: float = 0.0, failure_rate: float = 0.0, seed: int = 0) -> StaticDriver:
        """A driver for this host."""
        return StaticDriver(
            self.inventory,
            self.traits,
            self.labels,
            boot_s=boot_s,
            failure_rate=failure_rate,
            seed=seed,
            found=self.found,
            cells=self.cells,
        )


def load_hosts(path: Path) -> dict[str, StaticHost]:
    """Read an inventory file; SettingsError names file, table and key of the first thing wrong."""
    tree = read_tree(path)
    _known(tree, ("hosts",), str(path))
    hosts = _table(tree.get("hosts"), f"{path}: [hosts]")
    if not 1 <= len(hosts) <= HOSTS_MAX:
        raise SettingsError(f"{path}: {len(hosts)} hosts: write 1 to {HOSTS_MAX} tables [hosts.NAME]")
    return {_host_name(name, path): _host(path, name, table) for name, table in hosts.items()}


def _host(path: Path, name: str, table: object) -> StaticHost:
    where = f"{path}: [hosts.{name}]"
    host = _table(table, where)
    _known(host, ("inventory", "traits", "labels", "cells", "found", "found_file"), where)
    if "found" in host and "found_file" in host:
        raise SettingsError(f"{where}: found and found_file exclude each other: keep one")
    cells = _cells(host.get("cells"), f"{where[:-1]}.cells]")
    derived = inventory_of(cells)
    classes = _table(host.get("inventory"), f"{where[:-1]}.inventory]")
    if not classes and not derived:
        raise SettingsError(f"{where}: no inventory: write a table [hosts.{name}.inventory.VCPU] with a total")
    return StaticHost(
        cells=cells,
        inventory=derived
        | {
            _converted(class_name, ClassName, f"{where}: resource class {class_name!r}"): _inventory(
                item, f"{where[:-1]}.inventory.{class_name}]", derived.get(class_name)
            )
            for class_name, item in classes.items()
        },
        traits=_converted(host.get("traits", ()), Traits, f"{where}: traits"),
        labels=_converted(host.get("labels", {}), Labels, f"{where}: labels"),
        found=_found_source(path, host, where),
    )


_INVENTORY_KEYS = ("total", "reserved", "allocation_ratio", "min_unit", "max_unit", "step_size")


def _inventory(item: object, where: str, of_cells: Inventory | None) -> Inventory:
    table = dict(_table(item, where))
    _known(table, _INVENTORY_KEYS, where)
    if of_cells is not None and table.setdefault("total", of_cells.total) != of_cells.total:
        raise SettingsError(f"{where}: total {table['total']!r}, its cells have {of_cells.total}: leave the total out")
    if "allocation_ratio" in table:
        try:
            table["allocation_ratio_thousandths"] = ratio_thousandths(table.pop("allocation_ratio"))
        except ValueError as error:
            raise SettingsError(f"{where}: {complaint(str(error), 'it')}") from error
    inventory: Inventory = _converted(table, Inventory, where)
    return inventory


_CELL_KEYS = ("cpus", "cpus_dedicated", "siblings", "memory_mb", "pages", "devices", "networks", "socket")


def _cells(tables: object, where: str) -> dict[str, HostCell]:
    cells: dict[str, Any] = {}
    for name, item in _table(tables, where).items():
        here = f"{where[:-1]}.{name}]"
        cell = dict(_table(item, here))
        _known(cell, _CELL_KEYS, here)
        devices = _converted(cell.get("devices", []), list[Any], f"{here}: devices")
        cell["devices"] = [_device(device, f"{here}: devices") for device in devices]
        cells[name] = _converted(cell, HostCell, here)
    found: dict[str, HostCell] = _converted(cells, HostCells, where)
    if len(encode(found)) > CELLS_BYTES_MAX:
        raise SettingsError(
            f"{where}: its cells take more than {CELLS_BYTES_MAX} bytes of every report: name fewer devices"
        )
    return found


def _device(item: object, where: str) -> dict[str, Any]:
    """A device, of the class that its vendor and product make where it names none."""
    device = dict(_table(item, where))
    _known(device, ("id", "class", "vendor", "product", "shares"), where)
    if "class" not in device and device.get("vendor") and device.get("product"):
        device["class"] = f"CUSTOM_PCI_{device['vendor']}_{device['product']}".upper()
    return device


def _found_source(path: Path, host: Mapping[str, Any], where: str) -> Callable[[], tuple[Found, ...]] | None:
    if "found" in host:
        found = _found(host["found"], f"{where}: found")
        return lambda: found
    if "found_file" in host:
        name = _converted(host["found_file"], str, f"{where}: found_file")
        source = FoundFile(path.parent / name)
        source()  # an error in it is told now, not at the first poll
        return source
    return None


class FoundFile:
    """A file of running instances (JSON list, or TOML with `found` tables), read again when it changes.

    Once read, a later version that can't be read is left aside until it changes again, and the last good one holds:
    dropping what runs from the ledger would double-book the host. `error` then says what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error = ""
        self._seen: tuple[int, int] | None = None
        self._found: tuple[Found, ...] | None = None

    def __call__(self) -> tuple[Found, ...]:
        """The instances; SettingsError when the file has never been readable."""
        try:
            stat = self.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            if seen != self._seen:
                self._found = self._read()
                self._seen, self.error = seen, ""
        except (OSError, SettingsError) as error:
            if self._found is None:
                raise SettingsError(self._told(error)) from error
            self.error = self._told(error)
        assert self._found is not None
        return self._found

    def _told(self, error: OSError | SettingsError) -> str:
        return f"{self.path}: cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)

    def _read(self) -> tuple[Found, ...]:
        if self.path.suffix == ".toml":
            tree = read_tree(self.path)
            _known(tree, ("found",), str(self.path))
            return _found(tree.get("found", []), f"{self.path}: found")
        return _found(read_tree(self.path, "JSON"), str(self.path))


def _found(items: object, where: str) -> tuple[Found, ...]:
    found: tuple[Found, ...] = _converted(items, tuple[Found, ...], where)
    seen: set[str] = set()
    for instance in found:
        if instance.instance in seen:
            raise SettingsError(f"{where}: instance {instance.instance!r} is listed twice")
        seen.add(instance.instance)
    return found


def _table(value: object, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{where}: must be a table, not {value!r}")
    return value


def _known(table: Mapping[str, object], keys: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in keys:
            nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)[0]
            raise SettingsError(f"{where}: unknown key {key!r}; the nearest known is {nearest!r}")


def _host_name(name: str, path: Path) -> str:
    host: str = _converted(name, HostName, f"{path}: [hosts.{name}]: the name")
    return host


def _converted(value: object, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {complaint(str(error), 'it')}") from error
