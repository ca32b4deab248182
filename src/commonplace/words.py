"""Figures and counts as people read them: for tables and messages, never for what a machine reads."""

from typing import Final

WHOLE_MAX: Final = 2.0**53
"""Past it a float no longer tells one whole number from the next."""


def figure(value: float) -> str:
    """A float in six digits, or in all those before the point where they are more; with an exponent past WHOLE_MAX or below 0.0001."""
    return f"{value:.0f}" if 1e5 <= abs(value) <= WHOLE_MAX else f"{value:g}"


def counted(count: int, one: str, many: str = "") -> str:
    """A count and what it counts: `1 host`, `2 hosts`; `many` where more than one is not told by an s at the end."""
    return f"{count} {one if count == 1 else many or one + 's'}"
