"""Replacing functions and methods while a context lasts."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any


class Patch:
    """Puts replacements in place and takes them back when the stack ends."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute."""
        before = vars(owner)[name] if isinstance(owner, type) else getattr(owner, name)
        setattr(owner, name, value)
        self._stack.callback(setattr, owner, name, before)

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Replace a function or method by `around(original, *args)`."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        self.put(owner, name, wrapped)

    def wrap_class(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """The same for a class method."""
        original = getattr(owner, name)

        def wrapped(cls: Any, *args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        self.put(owner, name, classmethod(wrapped))
