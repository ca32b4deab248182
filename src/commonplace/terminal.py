"""Text that others wrote, made fit for a terminal: in one line, and without what would drive it."""

from collections.abc import Callable


def one_line(text: str) -> str:
    """Text in one line without control characters: names come from others and must not drive the terminal."""
    return escaped(text, lambda c: repr(c)[1:-1])


def every_line(text: str) -> str:
    """As `one_line`, line by line."""
    return "\n".join(map(one_line, text.split("\n")))


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """Text in which `escape` replaced what is not printed as itself."""
    return text if text.isprintable() else "".join(c if c.isprintable() else escape(c) for c in text)
