"""Trace context that rides beside a request's records, as W3C's `traceparent` (https://www.w3.org/TR/trace-context/#traceparent-header).

A frontend's caller names it, and every record made for the request carries the same: claim, decision, release. Nothing is decided by it.
"""

import re
from typing import Final

HEADER: Final = "traceparent"
"""Name of the record header."""

CHARS_MAX: Final = 512
"""A version we do not know may say more than ours does; no header grows past this."""

_FORM: Final = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


def misfit(text: str) -> str:
    """Why a text is no traceparent, with what to write; "" when it is one."""
    if _parts(text):
        return ""
    return (
        f"traceparent {text!r:.100} is not of the form 00-TRACE-PARENT-FLAGS: 32, 16 and 2 lowercase hexadecimal digits, "
        "TRACE and PARENT not all zeros"
    )


def from_header(value: object) -> str:
    """The traceparent of a header's value; "" for one that is none, which the standard says to ignore."""
    if not isinstance(value, bytes) or len(value) > CHARS_MAX:
        return ""
    text = value.decode("latin-1")
    return text if _parts(text) else ""


def trace_id(text: str) -> str:
    """The trace's id, 32 hexadecimal digits; "" of no traceparent."""
    parts = _parts(text)
    return parts[2] if parts else ""


def _parts(text: str) -> re.Match[str] | None:
    found = _FORM.fullmatch(text) if len(text) <= CHARS_MAX else None
    return found if found and (found[1] != "00" or found[3] is None) else None
