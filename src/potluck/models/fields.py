"""Reads values from config.json, and writes them as GGUF metadata."""

from __future__ import annotations

from typing import Any

from potluck.errors import ModelError

Config = dict[str, Any]
Entries = dict[str, tuple[list[str], Any]]
"""GGUF metadata: the value types and the value of each key."""


def field(where: str, config: Config, *keys: str) -> Any:
    """The value of the first of these keys that config.json has. Raises ModelError when it has none of them.

    where: the path of the file, for messages.
    """
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    raise ModelError(f"{where} has no {keys[0]}; it is not a complete model.")


def of_uint(value: Any) -> tuple[list[str], int]:
    return ["UINT32"], int(value)


def of_float(value: Any) -> tuple[list[str], float]:
    return ["FLOAT32"], float(value)


def of_bool(value: Any) -> tuple[list[str], bool]:
    return ["BOOL"], bool(value)
