"""A value for each of many keys, of which those that have not been seen for long are forgotten. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key. make: makes the value of a key that is new, or was forgotten. most: keys that are remembered."""

    def __init__(self, make: Callable[[], V], most: int) -> None:
        self._make = make
        self._most = most
        self._values: dict[K, V] = {}
        """The values; the key that was seen last comes last."""

    def __getitem__(self, key: K) -> V:
        """The key's value. This counts as seeing the key."""
        value = self._values[key] if key in self._values else self._make()
        self[key] = value
        return value

    def __setitem__(self, key: K, value: V) -> None:
        self._values.pop(key, None)
        self._values[key] = value
        if len(self._values) > self._most:
            del self._values[next(iter(self._values))]

    def get(self, key: K) -> V | None:
        """The key's value, if it has one. This does not count as seeing the key."""
        return self._values.get(key)

    def pop(self, key: K) -> V | None:
        """The key's value, if it has one, which is forgotten now."""
        return self._values.pop(key, None)

    def drain(self) -> dict[K, V]:
        """All values by their keys, which are forgotten now."""
        values, self._values = self._values, {}
        return values

    def __len__(self) -> int:
        return len(self._values)
