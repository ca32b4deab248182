"""The hint `query`: a condition in JSON over a host's facts.

    ["and", [">=", "$free_ram_mb", 1024], ["in", "$zone", "a", "b"]]

A text that begins with `$` stands for a fact; one that the host lacks is left out of the comparison. The first operand is compared
with each of the others. `check` refuses what cannot be evaluated, before any host is looked at; `holds` then raises nothing.
"""

import json
import operator
from collections.abc import Callable
from typing import Any

QUERY_CHARS_MAX = 4096
QUERY_DEPTH_MAX = 16
"""No condition that people write comes near; deeper ones would only spend a replica's time."""

Fact = Callable[[str], Any]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
OPERATORS = (*_COMPARE, "in", "not", "or", "and")


def check(text: str) -> str:
    """Why a query cannot be evaluated: what, and what to do; "" when it can."""
    if len(text) > QUERY_CHARS_MAX:
        return f"hint query has {len(text)} characters, at most {QUERY_CHARS_MAX} are read: shorten it"
    if _nesting(text) > QUERY_DEPTH_MAX:
        return f"hint query is nested more than {QUERY_DEPTH_MAX} deep: flatten it"
    try:
        query = json.loads(text)
    except ValueError as error:
        return f'hint query is no JSON ({error}): write it as in [">=", "$free_ram_mb", 1024]'
    return _check(query) if query else ""


def _nesting(text: str) -> int:
    """Deepest level of brackets, those inside strings included: known before a parser recurses over them."""
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _check(query: Any) -> str:
    if not isinstance(query, list):
        return f"hint query has {type(query).__name__} where a list is needed: begin it with an operator"
    if not query:
        return ""
    if query[0] not in OPERATORS:
        return f"hint query names operator {json.dumps(query[0])[:80]}: known are {' '.join(OPERATORS)}"
    return next((why for item in query[1:] if isinstance(item, list) and (why := _check(item))), "")


def holds(text: str, fact: Fact) -> bool:
    """Whether a checked query holds for a host, whose facts `fact` knows by name (None: it lacks that one)."""
    query = json.loads(text) if text else None
    if not query:
        return True
    result = _evaluate(query, fact)
    return any(result) if isinstance(result, list) else bool(result)


def _evaluate(query: list[Any], fact: Fact) -> Any:
    if not query:
        return True
    sign, operands = query[0], [_operand(item, fact) for item in query[1:]]
    operands = [item for item in operands if item is not None]
    if sign == "and":
        return all(map(_truth, operands))
    if sign == "or":
        return any(map(_truth, operands))
    if sign == "not":
        return [not _truth(item) for item in operands]
    if len(operands) < 2:
        return False
    if sign == "in":
        return any(_compared(operator.eq, operands[0], item) for item in operands[1:])
    return all(_compared(_COMPARE[sign], operands[0], item) for item in operands[1:])


def _operand(item: Any, fact: Fact) -> Any:
    if isinstance(item, list):
        return _evaluate(item, fact)
    if isinstance(item, str) and item.startswith("$"):
        return fact(item[1:])
    return item


def _truth(value: Any) -> bool:
    """Labels are texts: those that say no are no."""
    return value.lower() not in ("", "0", "false", "no", "none") if isinstance(value, str) else bool(value)


def _compared(sign: Callable[[Any, Any], Any], left: Any, right: Any) -> bool:
    """Compare as the operand that is no text demands, since a label is a text whatever it says; what cannot be compared fails."""
    if isinstance(left, str) != isinstance(right, str):
        left, right = _like(left, right), _like(right, left)
    try:
        return bool(sign(left, right))
    except TypeError:
        return False


def _like(value: Any, other: Any) -> Any:
    if not isinstance(value, str):
        return value
    if isinstance(other, bool):
        return _truth(value)
    try:
        return float(value)
    except ValueError:
        return value
