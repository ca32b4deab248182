"""Mixes: flavors in the shares in which they are asked for, which the fragments of a host are judged by."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from commonplace.core.records.control import Flavor, Profile


class Part(Struct, frozen=True):
    """One flavor of a mix: its share, what it asks besides devices, and of each class of devices how many and how much of each."""

    share: float
    resources: Mapping[str, int]
    devices: Mapping[str, tuple[int, int]]


Mix = tuple[Part, ...]


def mix_of(profile: Profile, flavors: Iterable[Flavor]) -> Mix:
    """The flavors that a profile's mix names, by their shares; all alike where it names none."""
    weighed = [(flavor, profile.mix.get(flavor.name, 0.0) if profile.mix else 1.0) for flavor in flavors]
    total = sum(weight for _, weight in weighed)
    return tuple(_part(flavor, weight / total) for flavor, weight in weighed if weight > 0)


def _part(flavor: Flavor, share: float) -> Part:
    devices = {one.resource_class: (one.count, one.shares) for one in flavor.devices}
    return Part(share, {name: n for name, n in flavor.resources.items() if n and name not in devices}, devices)
