"""What the schema of a tool's parameters says about single arguments. It is a client's, so it may be any JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_STEPS = 64
"""The most references and alternatives that are followed, because a schema may refer to itself."""

_KINDS: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "array",
    dict: "object",
}


def properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas of the arguments by their names."""
    known = schema.get("properties")
    return known if isinstance(known, dict) else {}


def required(schema: Mapping[str, Any]) -> list[Any]:
    """The names of the arguments that must be there."""
    names = schema.get("required")
    return names if isinstance(names, list) else []


def definitions(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the schemas of arguments may refer to."""
    return {name: schema[name] for name in ("$defs", "definitions") if name in schema}


def kind_of(value: Any) -> str:
    """The type of a value in the words of JSON schemas."""
    return _KINDS[type(value)]


def kinds(about: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """The types that an argument may have; none if its schema does not say. root: the schema that contains it."""
    return frozenset(kind for part in _alternatives(about, root) for kind in _own_kinds(part))


def choices(about: Any, root: Mapping[str, Any]) -> list[str] | None:
    """The texts of the values between which an argument may choose; None if its schema does not list them."""
    for part in _alternatives(about, root):
        values = [part["const"]] if "const" in part else part.get("enum")
        if isinstance(values, list) and values:
            return [value if isinstance(value, str) else json.dumps(value) for value in values]
    return None


def _own_kinds(part: Mapping[str, Any]) -> list[str]:
    named = part.get("type")
    if isinstance(named, str):
        return [named]
    if isinstance(named, list):
        return [kind for kind in named if isinstance(kind, str)]
    listed = [part["const"]] if "const" in part else part.get("enum")
    return [kind_of(value) for value in listed] if isinstance(listed, list) else []


def _alternatives(about: Any, root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema and those that it is made of."""
    waiting = [about]
    for _ in range(_MOST_STEPS):
        if not waiting:
            return
        part = waiting.pop(0)
        if not isinstance(part, dict):
            continue
        yield part
        waiting.append(_referred(part.get("$ref"), root))
        for word in ("anyOf", "oneOf", "allOf"):
            others = part.get(word)
            waiting += others if isinstance(others, list) else []


def _referred(reference: Any, root: Mapping[str, Any]) -> Any:
    """What a reference into the same schema means; None if it means nothing."""
    found: Any = root
    for step in reference.removeprefix("#/").split("/") if isinstance(reference, str) else [None]:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
