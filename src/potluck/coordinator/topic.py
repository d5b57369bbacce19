"""Values of one kind and their listeners. A topic is made first, so that tellers and listeners need not know each
other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Topic(Generic[T]):
    """A topic, which calls its listeners at once, in the order in which they came."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[T], None]] = []

    def listen(self, listener: Callable[[T], None]) -> None:
        """Call this listener with every value from now on."""
        self._listeners.append(listener)

    def tell(self, value: T) -> None:
        """Call every listener with this value."""
        for listener in self._listeners:
            listener(value)
