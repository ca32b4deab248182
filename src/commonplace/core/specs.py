"""Requirements of extra specs: an operator and what it compares with, as in `>= 4`, `<or> a <or> b`, `s== kvm`.

`=` means at least. Without an operator two texts must be equal. What is no number fails a comparison of numbers.
"""

import operator
from collections.abc import Callable

_NUMBERS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
}
_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s<": operator.lt,
    "s<=": operator.le,
    "s>": operator.gt,
    "s>=": operator.ge,
    "<in>": operator.contains,
}


def matches(value: str, requirement: str) -> bool:
    """Whether a value meets a requirement; an operator with nothing to compare with is never met."""
    words = requirement.split()
    sign, operands = (words[0], words[1:]) if words else ("", [])
    if sign in _NUMBERS:
        return bool(operands) and _compare(_NUMBERS[sign], value, operands[0])
    if sign in _TEXTS:
        return bool(operands) and _TEXTS[sign](value, operands[0])
    if sign == "<all-in>":
        return bool(operands) and all(word in value for word in operands)
    if sign == "<or>":
        return value in operands[::2]  # every other word is the operator again
    return value == requirement


def _compare(sign: Callable[[float, float], bool], value: str, operand: str) -> bool:
    try:
        return sign(float(value), float(operand))
    except ValueError:
        return False
