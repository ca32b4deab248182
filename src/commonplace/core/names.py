"""Which names records may bear where a type cannot say it: hosts, resource classes, cells, and anything that terminals show."""

import re

_host_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}").fullmatch


def is_host_name(name: str) -> bool:
    """Whether a host may bear this name."""
    return _host_name(name) is not None


_class_name = re.compile(r"[A-Z][A-Z0-9_]{0,63}").fullmatch
_cell_name = re.compile(r"[!-~]{1,128}").fullmatch


def is_class_name(name: str) -> bool:
    """Whether a resource class may be called so."""
    return _class_name(name) is not None


def is_cell_name(name: str) -> bool:
    """Whether a NUMA cell may be called so: visible ASCII, because a space would end the name in the bytes that are hashed."""
    return _cell_name(name) is not None


def printable(*names: str) -> bool:
    """Whether names may reach terminals, logs and metric labels: no control characters, no lone surrogates."""
    return all(name.isprintable() for name in names)
