"""Resource classes and inventories in exact integers.

Classes carry their standard names (`VCPU`, `MEMORY_MB`, `DISK_GB`, `CUSTOM_*`, the names of os-resource-classes), amounts are integers in
the unit the name says. No float decides whether something fits: an allocation ratio is held in thousandths.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated

from msgspec import Meta, Struct

AMOUNT_MAX = 2**53 - 1
"""Largest amount on the wire: readers of JSON lose integers above it."""

RATIO_SCALE = 1000
"""Allocation ratios have at most three decimals and are held as integer thousandths."""

Amount = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
Resources = Mapping[str, int]


class Inventory(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a host has of one resource class, in the class's unit.

    `max_unit` 0 means "as much as the total".
    """

    total: Amount
    reserved: Amount = 0
    allocation_ratio_thousandths: Annotated[int, Meta(ge=1, le=1_000_000_000)] = RATIO_SCALE
    min_unit: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)] = 1
    max_unit: Amount = 0
    step_size: Annotated[int, Meta(ge=1, le=AMOUNT_MAX)] = 1

    @property
    def capacity(self) -> int:
        """Amount that may be allocated: ⌊(total − reserved) × thousandths / 1000⌋, never below 0."""
        return max(0, (self.total - self.reserved) * self.allocation_ratio_thousandths // RATIO_SCALE)

    @property
    def unit_max(self) -> int:
        """Largest amount one allocation may ask for."""
        return self.max_unit or self.total


def misfit(inventory: Inventory | None, used: int, asked: int) -> str:
    """Why `asked` more does not fit, in words, or "" when it fits.

    The rule is Placement's: used + asked ≤ capacity, min_unit ≤ asked ≤ max_unit, asked divisible by step_size.
    """
    if asked == 0:
        return ""
    if inventory is None:
        return "the host has none"
    if used + asked > inventory.capacity:
        return f"needs {asked}, {max(0, inventory.capacity - used)} free"
    if not inventory.min_unit <= asked <= inventory.unit_max:
        return f"{asked} is outside {inventory.min_unit}..{inventory.unit_max} for one allocation"
    if asked % inventory.step_size:
        return f"{asked} is not a multiple of {inventory.step_size}"
    return ""


def ratio_thousandths(text: str | float | int) -> int:
    """Turn a ratio as people write it (`1.5`, `"16"`) into thousandths; ValueError beyond three decimals or not positive."""
    try:
        scaled = Decimal(str(text)) * RATIO_SCALE
        whole = int(scaled)
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise ValueError(f"allocation_ratio {text!r} is not a number") from error
    if whole != scaled or whole < 1:
        raise ValueError(f"allocation_ratio {text!r} must be positive with at most three decimals")
    return whole
