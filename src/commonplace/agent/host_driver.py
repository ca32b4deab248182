"""The `host` driver: the machine it runs on, measured by psutil, and instances run by commands.

Without commands instances are only accounted for. With them, each is an argument list (no shell), and words in braces
stand for the allocation's own: {instance} {allocation} {request} {flavor} {project} {user} {group} {vcpus} {memory_mb}
{disk_gb} {cpus} (dedicated ones) {numa_nodes} {devices}. `list_command` prints what runs,
one JSON object a line: {"instance": "vm-1", "resources": {"VCPU": 2}, …}.
"""

from math import inf

import msgspec
import structlog

from commonplace.agent import pci
from commonplace.agent.commands import Command, check_template, expand
from commonplace.agent.drivers import Event, Failed, Found, Gone, Up, as_found
from commonplace.agent.machine import HostDriverSettings, cpu_flags, cpu_traits, disk_share, measure, measured_load
from commonplace.agent.topology import cells_of, inventory_of, read
from commonplace.core.cpu_lists import parse, text_of
from commonplace.core.records.hosts import Allocation, HostCell
from commonplace.core.resources import Inventory, ratio_thousandths
from commonplace.errors import SettingsError

log = structlog.get_logger(__name__)

STARTS_MAX = 1024
"""Most commands that run at once; an allocation past it fails, and the host's own limit on builds is far lower."""


class HostDriver:
    """This machine; see `Driver`. SettingsError when a setting can't be meant."""

    def __init__(self, settings: HostDriverSettings) -> None:
        _check(settings)
        self._settings = settings
        self._cells = _cells(settings)
        self._inventory = inventory_of(measure(settings), self._cells)
        self._traits = tuple(sorted({*settings.traits, *cpu_traits(cpu_flags())}))
        self._new: list[Allocation] = []
        self._held: dict[str, Allocation] = {}
        self._commands: dict[str, tuple[str, Command]] = {}
        self._listing: Command | None = None
        self._list_at = -inf
        self._listed: dict[str, Found] = {}
        self._looked = not settings.list_command
        # A list shows an instance as it was at some moment while the command ran: what changed since the command
        # began can't be judged by it. `_turn` counts the polls; `_changed` holds the turn of an instance's last change.
        self._turn = 0
        self._listing_turn = 0
        self._changed: dict[str, int] = {}
        self._disk_trouble = ""
        measured_load()  # the first call only sets the mark that the next one measures CPUs from

    def inventory(self) -> dict[str, Inventory]:
        return self._inventory

    def traits(self) -> tuple[str, ...]:
        return self._traits

    def labels(self) -> dict[str, str]:
        return dict(self._settings.labels)

    def cells(self) -> dict[str, HostCell]:
        return self._cells

    def load(self) -> dict[str, float]:
        load, path = measured_load(), self._settings.disk_path
        why = ""
        try:
            load["disk_share"] = disk_share(path)
        except OSError as error:  # a stale or unmounted file system is no reason to give up what runs
            why = error.strerror or str(error)
        if why and why != self._disk_trouble:
            log.warning("disk not measured", disk_path=path, why=why)
        self._disk_trouble = why
        return load

    def start(self, allocation: Allocation) -> None:
        self._held[allocation.id] = allocation
        if self._commands.get(allocation.id, ("", None))[0] != "start":  # else a keeper built anew asks again
            self._new.append(allocation)

    def adopt(self, allocation: Allocation) -> None:
        if allocation.origin == "found":
            self._listed[allocation.instance] = as_found(allocation)
        else:
            self._held[allocation.id] = allocation

    def stop(self, allocation_id: str) -> None:
        allocation = self._held.pop(allocation_id, None)
        if allocation is None:
            return
        if allocation in self._new:
            self._new.remove(allocation)
            return
        self._changed[allocation.instance] = self._turn
        _, starting = self._commands.pop(allocation_id, ("", None))
        if starting is not None:
            starting.kill()
        if self._settings.stop_command and not self._is_anothers(allocation):
            self._run("stop", allocation)

    def _is_anothers(self, allocation: Allocation) -> bool:
        """Whether its stop command would stop what was begun for another: a resize by two requests, the old one released last."""
        begun = [a for a in self._held.values() if a.instance == allocation.instance and a not in self._new]
        argv = expand(self._settings.stop_command, allocation)
        return any(expand(self._settings.stop_command, other) == argv for other in begun)

    def looked(self) -> bool:
        return self._looked

    def due(self) -> float:
        if self._new or self._commands or self._listing:
            return 0.0
        return self._list_at + self._settings.list_interval_s if self._settings.list_command else inf

    def poll(self, now: float) -> list[Event]:
        self._turn += 1
        events: list[Event] = []
        for allocation_id, (what, command) in list(self._commands.items()):
            if (why := command.ended()) is not None:
                del self._commands[allocation_id]
                events += self._ended(what, allocation_id, command.name, why)
        return events + self._begin_new() + self._look(now)

    def close(self) -> None:
        """End the commands that still run; instances stay."""
        for _, command in self._commands.values():
            command.kill()
        if self._listing:
            self._listing.kill()

    def _begin_new(self) -> list[Event]:
        """Start what is to start, save where a command of the same instance runs: a stop that ends later would end the new one."""
        events: list[Event] = []
        busy = {command.name for _, command in self._commands.values()}
        new, self._new = self._new, []
        for allocation in new:
            if allocation.instance in busy:
                self._new.append(allocation)
                continue
            events += self._begin(allocation)
            if self._settings.start_command:
                busy.add(allocation.instance)
        return events

    def _begin(self, allocation: Allocation) -> list[Event]:
        self._changed[allocation.instance] = self._turn
        if not self._settings.start_command:
            return [Up(allocation.id)]
        if len(self._commands) >= STARTS_MAX:
            return self._failed(allocation.id, f"{STARTS_MAX} commands run already")
        why = self._run("start", allocation)
        return self._failed(allocation.id, why) if why else []

    def _run(self, what: str, allocation: Allocation) -> str:
        """Begin a command; returns why it could not begin, or ""."""
        template = self._settings.start_command if what == "start" else self._settings.stop_command
        argv = expand(template, allocation)
        try:
            command = Command(argv, allocation.instance, self._settings.command_timeout_s)
        except OSError as error:
            why = f"{argv[0]}: {error.strerror}"
            log.warning("command did not start", what=what, instance=allocation.instance, why=why)
            return why
        self._commands[allocation.id] = (what, command)
        return ""

    def _ended(self, what: str, allocation_id: str, instance: str, why: str) -> list[Event]:
        self._changed[instance] = self._turn
        if not why:
            return [Up(allocation_id)] if what == "start" else []
        # an instance that could not be stopped shows up in the next list, and enters the ledger as found
        log.warning("command failed", what=what, instance=instance, why=why)
        return self._failed(allocation_id, why) if what == "start" else []

    def _failed(self, allocation_id: str, why: str) -> list[Event]:
        self._held.pop(allocation_id, None)
        return [Failed(allocation_id, why)]

    def _look(self, now: float) -> list[Event]:
        """Begin a list when it is time, and compare one that has ended with what was told before."""
        if self._listing is None:
            if self._settings.list_command and now >= self._list_at + self._settings.list_interval_s:
                self._list_at, self._listing_turn = now, self._turn
                try:
                    self._listing = Command(self._settings.list_command, "", self._settings.command_timeout_s)
                except OSError as error:
                    log.warning("list command did not start", why=error.strerror)
            return []
        why = self._listing.ended()
        if why is None:
            return []
        ended, self._listing = self._listing, None
        running = None if why else _parse(ended.output)
        if running is None:
            log.warning("list command failed", why=why or "a line is no instance as JSON")
            return []  # nothing is known: nobody is gone
        self._looked = True
        return self._compare(running)

    def _compare(self, running: dict[str, Found]) -> list[Event]:
        busy = {command.name for _, command in self._commands.values()} | {one.instance for one in self._new}

        def judged(name: str) -> bool:
            return name not in busy and self._changed.get(name, -1) < self._listing_turn

        own = {allocation.instance for allocation in self._held.values()}
        gone = [name for name in sorted(own | set(self._listed)) if name not in running and judged(name)]
        found = [
            instance
            for name, instance in running.items()
            if name not in own and instance != self._listed.get(name) and judged(name)
        ]
        ended = [allocation.id for allocation in self._held.values() if allocation.instance in gone]
        self._listed = {name: was for name, was in self._listed.items() if name in running and name not in own}
        changed = [name for name in (one.instance for one in found) if name in self._listed]
        self._listed |= {one.instance: one for one in found}
        self._changed = {name: turn for name, turn in self._changed.items() if name in busy or not judged(name)}
        # a changed instance is gone and found again, because what it holds is no longer what was told
        failed = [event for allocation_id in ended for event in self._failed(allocation_id, "ended by itself")]
        return [*failed, *(Gone(name) for name in gone + changed if name not in own), *found]


class _Listed(Found, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=False):
    """A line of `list_command`; what else it says is left out."""


_listed = msgspec.json.Decoder(_Listed)


def _parse(output: bytes) -> dict[str, Found] | None:
    """The instances by name; None when a line can't be read, because half a list would free what runs."""
    instances: dict[str, Found] = {}
    for line in output.splitlines():
        if line.strip():
            try:
                one = _listed.decode(line)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                return None
            instances[one.instance] = Found(**msgspec.structs.asdict(one))
    return instances


def _cells(settings: HostDriverSettings) -> dict[str, HostCell]:
    """The NUMA cells and devices that the settings ask for; SettingsError where the machine does not have them so."""
    cells = _numa(settings)
    if not settings.devices:
        return cells
    found = pci.devices_of(pci.read(), settings.devices)
    if not found:
        named = ", ".join(settings.devices)
        raise SettingsError(f"devices: no PCI device here is of {named}: see `lspci -n`, or leave them out")
    try:
        return pci.with_devices(cells, found)
    except ValueError as error:
        raise SettingsError(f"devices: {error}") from error


def _numa(settings: HostDriverSettings) -> dict[str, HostCell]:
    if not settings.numa:
        if settings.cpus_dedicated:
            raise SettingsError("cpus_dedicated without numa: cells say which cpus are dedicated; set numa = true")
        return {}
    try:
        dedicated = parse(settings.cpus_dedicated)
    except ValueError as error:
        raise SettingsError(f"cpus_dedicated: {error}") from error
    cells = cells_of(read(), dedicated, settings.reserved_memory_share)
    if not cells:
        raise SettingsError("numa is set, and /sys/devices/system/node shows no cells: set numa = false")
    if missing := dedicated - frozenset[int]().union(*(parse(cell.cpus_dedicated) for cell in cells.values())):
        raise SettingsError(f"cpus_dedicated names {text_of(missing)}, which are not online here: leave them out")
    return cells


def _check(settings: HostDriverSettings) -> None:
    for name in ("start_command", "stop_command", "list_command"):
        check_template(name, getattr(settings, name))
    for name in ("cpu_allocation_ratio", "memory_allocation_ratio", "disk_allocation_ratio"):
        try:
            ratio_thousandths(getattr(settings, name))
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from error
    if settings.start_command and not settings.stop_command:
        raise SettingsError("start_command without stop_command: instances could never be stopped; set both")
