"""Filters that a request itself calls for: by a hint, an image, a group, a zone.

They are asked host by host, and only where they concern the request (filter_table.py).
"""

from ipaddress import ip_address, ip_network
from json import loads

from commonplace.core import facts, query, specs
from commonplace.core.cells import ratios_of
from commonplace.core.filters import traits
from commonplace.core.laying import layout_of, plan, why_not
from commonplace.core.rows import Row
from commonplace.core.rules import Standing, Wishes
from commonplace.core.view import View

CAPABILITIES = "capabilities"
ADDRESS_BITS = "cpu_info.maxphysaddr.bits"
CIDR_DEFAULT = "/24"
DEVICE_CLASSES = ("PCI_DEVICE", "CUSTOM_PCI_")
_SELECTING = frozenset(
    {"requested_host", "ignored_hosts", "availability_zone", "member_of", "traits_any_of", "image_properties"}
)
"""Filters that select hosts whatever they hold: where these leave none, a value of a label is no place to spread to."""

_SAME: tuple[dict[str, str], ...] = (
    {
        "x86": "i686",
        "i386": "i686",
        "i486": "i686",
        "i586": "i686",
        "x86_32": "i686",
        "amd64": "x86_64",
        "arm64": "aarch64",
    },
    {"xapi": "xen", "powervm": "phyp"},
    {"pv": "xen", "hv": "hvm", "baremetal": "hvm"},
)
"""Names that images and hosts use for one and the same architecture, hypervisor and mode."""


# --- where ------------------------------------------------------------------------------------------------------------


def requested_host(view: View, row: Row, wishes: Wishes) -> str:
    """Pass only the host that the request demands."""
    return "" if row.host.name == wishes.build.host else f"is not {wishes.build.host}, which is demanded"


def ignored_hosts(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts that the request does not ignore."""
    return "is to be ignored" if row.host.name in wishes.build.hosts_ignored else ""


def availability_zone(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts of the zone asked for."""
    zone = wishes.aggregates.zone(row)
    return "" if zone == wishes.build.zone else f"is in zone {zone}"


def member_of(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts in the aggregates asked for: `NAME`, not in `!NAME`, in one of `in:NAME,NAME`."""
    names = {one.name for one in wishes.aggregates.of(row)}
    for item in wishes.build.member_of:
        allowed, wanted = member_terms(item)
        if bool(names & wanted) != allowed:
            return f"is {'in none' if allowed else 'in one'} of aggregates {', '.join(sorted(wanted))}"
    return ""


def member_terms(item: str) -> tuple[bool, set[str]]:
    """An item of `member_of`: whether hosts must be in one of the aggregates (or in none), and which."""
    names = item.removeprefix("!").removeprefix("in:")
    return not item.startswith("!"), {name.strip() for name in names.split(",")}


def traits_any_of(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with at least one trait of each set asked for."""
    for names in wishes.build.traits_any_of:
        if not row.host.traits.intersection(names):
            return f"has none of {', '.join(names)}"
    return ""


# --- beside what ------------------------------------------------------------------------------------------------------


def members(view: View, row: Row, wishes: Wishes) -> int:
    """Members of the request's group on a host, claims under way included; the instance itself does not count."""
    build = wishes.build
    here = view.groups.get(build.group, {}).get(row.index, 0)
    if here and build.instances:
        here -= sum(one.group == build.group and one.instance in build.instances for one in facts.residents(row))
    return here


def server_group_anti_affinity(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with fewer members of the group than it may have on one host."""
    most = wishes.build.group_max or 1
    here = members(view, row, wishes)
    return f"{here} of the group, at most {most}" if here >= most else ""


def server_group_affinity(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with members of the group, and every host while it has none anywhere."""
    hosts = _standing(view, wishes).rows
    return "" if not hosts or row.index in hosts else "none of the group, which is on other hosts"


def spread_over(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts whose value of the label has, with this instance, at most `max_skew` members more than the value with fewest."""
    label, most = wishes.build.spread_over, wishes.build.max_skew
    value = _domain(row, wishes)
    if value is None:
        return f"has no label {label}"
    members_at = _domains(view, wishes)
    here, least = members_at.get(value, 0), min(members_at.values(), default=0)
    if here + 1 - least <= most:
        return ""
    return f"{label} {value} has {here} of the group and another {least}: more than {most} apart with this one"


def _standing(view: View, wishes: Wishes) -> Standing:
    if wishes.standing is None:
        wishes.standing = Standing(view.groups.get(wishes.build.group, {}))
    return wishes.standing


def _domain(row: Row, wishes: Wishes) -> str | None:
    """A host's value of the label that the request spreads over; its zone is that of its aggregates."""
    label = wishes.build.spread_over
    return wishes.aggregates.zone(row) if label == "zone" else row.host.labels.get(label)


def _domains(view: View, wishes: Wishes) -> dict[str, int]:
    """Members at each value of the label: of every value with an enabled host that the request could have, were there room."""
    standing = _standing(view, wishes)
    if standing.domains is None:
        found: dict[str, int] = {}
        asked = [one for one in wishes.concerned() if one.name in _SELECTING]
        for row in view.by_index:
            value = _domain(row, wishes)
            if value is None or value in found or row.host.removed or row.status != "enabled":
                continue
            if not traits(view, row, wishes.ask) and not any(one.plain(view, row, wishes) for one in asked):
                found[value] = 0
        for index, here in standing.rows.items():
            value = _domain(view.by_index[index], wishes)
            if value in found:
                found[value] += here
        standing.domains = found
    return standing.domains


def different_host(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with none of the instances that the hint names."""
    here = _named(row, wishes, "different_host")
    return f"has instance {here}, which is to be avoided" if here else ""


def same_host(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with one of the instances that the hint names."""
    return "" if _named(row, wishes, "same_host") else "has none of the instances to be joined"


def _named(row: Row, wishes: Wishes, hint: str) -> str:
    names = wishes.hint(hint)
    return next((one.instance for one in facts.residents(row) if one.instance in names), "")


def simple_cidr_affinity(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts whose address is in the network around the one that the hint names."""
    address = row.host.labels.get("host_ip", "")
    network = ip_network(near_network(wishes), strict=False)
    try:
        return "" if ip_address(address) in network else f"its address {address} is outside {network}"
    except ValueError:
        return f"its label host_ip is no address: {address!r}"


def near_network(wishes: Wishes) -> str:
    """The network that the hints `build_near_host_ip` and `cidr` name."""
    cidr = (wishes.hint("cidr") or (CIDR_DEFAULT,))[0]
    return f"{wishes.hint('build_near_host_ip')[0]}/{cidr.removeprefix('/')}"


# --- what the host is -------------------------------------------------------------------------------------------------


def compute_capabilities(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts whose facts and labels match the flavor's extra specs `capabilities:…`, and those unscoped ones that name a fact."""
    for key, requirement in wishes.flavor.extra_specs.items():
        scope, _, name = key.partition(":")
        if key == "hw:maxphysaddr_bits":
            name, requirement = ADDRESS_BITS, f">= {requirement}"
        elif not name:
            name = key
            if not (
                name in facts.FACTS or name in facts.LABELLED or name in row.host.labels or facts.branch(row, name)
            ):
                continue
        elif scope != CAPABILITIES:
            continue
        name = name.replace(":", ".")
        value = facts.fact(row, name)
        if value is None and (parts := facts.branch(row, name)):
            if parts != _parts_of(name, requirement):
                return f"its {name} is another"
            continue
        if value is None:
            return f"does not say its {name}"
        if not specs.matches(str(value), requirement):
            return f"its {name} is {value!s:.80}, not {requirement!s:.80}"
    return ""


def _parts_of(name: str, requirement: str) -> dict[str, str]:
    """What labels below a name must be, where the requirement is an object in JSON."""
    try:
        wanted = loads(requirement)
    except ValueError:
        return {}
    return dict(facts.dotted(name, wanted))


def image_properties(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts that run the image's architecture, hypervisor and mode together, in the version it demands."""
    wanted = [name for name in _same(image_triple(wishes)) if name]
    properties = wishes.build.image_properties
    if wanted:
        if not any(all(name in _same(triple) for name in wanted) for triple in facts.supported(row)):
            return f"does not run {'/'.join(wanted)}"
        version, demanded = (
            row.host.labels.get("hypervisor_version", ""),
            properties.get("img_hv_requested_version", ""),
        )
        if version and demanded and not _version_meets(version, demanded):
            return f"its hypervisor is of version {version}, not {demanded}"
    bits = properties.get("hw_maxphysaddr_bits", "")
    if bits and not specs.matches(row.host.labels.get(ADDRESS_BITS, ""), f">= {bits}"):
        return f"addresses fewer than {bits} bits"
    return ""


def image_triple(wishes: Wishes) -> tuple[str, str, str]:
    """Architecture, hypervisor and mode that an image demands, "" each where it demands none."""
    said = wishes.build.image_properties.get
    return (
        said("hw_architecture", "") or wishes.profile.architecture_default,
        said("img_hv_type", ""),
        said("hw_vm_mode", ""),
    )


def _same(triple: tuple[str, ...]) -> list[str]:
    return [same.get(name.lower(), name.lower()) for name, same in zip(triple, _SAME, strict=False)]


def _version_meets(version: str, demanded: str) -> bool:
    """Whether a version (an integer with three digits a part, or dotted) meets every term as in `>=6.0,<7`."""
    if version.isascii() and version.isdigit():
        number = int(version)
        have = [number // 1_000_000, number // 1000 % 1000, number % 1000]
    else:
        have = _parts(version)
    return all(_term_meets(have, term.strip()) for term in demanded.strip("() ").split(",") if term.strip())


def _term_meets(have: list[int], term: str) -> bool:
    text = term.lstrip("<>=! ")
    sign, want = term[: len(term) - len(text)].strip(), _parts(text)
    width = max(len(have), len(want))
    left, right = ([*parts, *[0] * (width - len(parts))] for parts in (have, want))
    match sign:
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right
        case "!=":
            return left != right
        case _:
            return left == right


def _parts(version: str) -> list[int]:
    return [int(part) if part.isascii() and part.isdigit() else 0 for part in version.strip().split(".")]


def json(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts for which the condition of the hint `query` holds."""
    held = query.holds(wishes.hint("query")[0], lambda name: facts.fact(row, name))
    return "" if held else "the query does not hold"


# --- how it is built --------------------------------------------------------------------------------------------------


def numa_topology(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts on whose cells those of the instance fit, with dedicated cpus, thread policy, pages and devices near them."""
    flavor, cells = wishes.flavor, row.cells
    if not cells:
        return "does not say its cells" if flavor.cells or flavor.devices or flavor.groups else ""
    layout = layout_of(flavor, flavor.resources, cells)
    ratios = ratios_of(row.host.inventory)
    return why_not(cells, layout, ratios) if plan(cells, layout, ratios, wishes.build.networks) is None else ""


def pci_passthrough(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with the devices that are asked for free."""
    for name, amount in wishes.ask.resources:
        if is_device(name):
            free = facts.total(row, name) - facts.used(row, name)
            if free < amount:
                return f"needs {amount} {name}, {max(0, free)} free"
    return ""


def is_device(name: str) -> bool:
    """Whether a resource class counts PCI devices."""
    return name.startswith(DEVICE_CLASSES)
