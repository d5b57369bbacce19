"""Says what a request's JSON should be, where it is something else: in plain words, in place of msgspec's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from msgspec import Struct, inspect

_EXPECTED = re.compile(r"Expected `[^`]+`, got `(\w+)`")
_NOT_AMONG = re.compile(r"Invalid enum value (.+)")
_MISSING = re.compile(r"Object missing required field `(.+)`")
_STEP = re.compile(r"\w+|\[[^\]]*\]")
"""A part of a place, such as "tools[2].type": a field's name, or an element of a list or of an object's values."""
_WORDS: dict[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "a text",
    inspect.ListType: "a list",
    inspect.DictType: "an object",
    inspect.StructType: "an object",
}
_GIVEN = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number with a fraction",
    "str": "a text",
    "array": "a list",
    "object": "an object",
}
_LONGEST = 50
"""The most characters of a value that are repeated."""


def missing(text: str) -> str:
    """The name of the field that is not given, according to msgspec's text, or ""."""
    found = _MISSING.fullmatch(text)
    return found[1] if found else ""


def complaint(text: str, place: str, kind: type[Struct]) -> str:
    """The sentence for what msgspec's text says about a place in a request of this kind. place: "" for all of it."""
    if name := missing(text):
        return f"{place}.{name} is missing.".removeprefix(".")
    expected, not_among = _EXPECTED.fullmatch(text), _NOT_AMONG.fullmatch(text)
    if not place and expected:
        return "The request's body must be a JSON object."
    allowed = _listed(_words(_kinds_at(place, kind)))
    if allowed and expected:
        return f"{place} must be {allowed}, not {_GIVEN.get(expected[1], expected[1])}."
    if allowed and not_among:
        value = not_among[1]
        return f"{place} must be {allowed}, not {value[:_LONGEST]}{'…' * (len(value) > _LONGEST)}."
    return f"{place}: {text}." if place else f"{text}."


def _kinds_at(place: str, kind: type[Struct]) -> list[inspect.Type]:
    """What may stand at a place of a request; nothing if the types do not say it."""
    kinds = list(_alternatives(inspect.type_info(kind)))
    for step in _STEP.findall(place):
        inner = [found for one in kinds for found in _inside(one, step)]
        kinds = [one for found in inner for one in _alternatives(found)]
    return kinds


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for one in kind.types:
            yield from _alternatives(one)
    else:
        yield kind


def _inside(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == step)
    elif isinstance(kind, inspect.ListType) and step.startswith("["):
        yield kind.item_type
    elif isinstance(kind, inspect.DictType) and step.startswith("["):
        yield kind.value_type


def _words(kinds: Iterable[inspect.Type]) -> list[str]:
    """A word for each of these kinds, but null, which stands for what is not given. Texts that are allowed come as they
    are.
    """
    words: list[str] = []
    for kind in kinds:
        if isinstance(kind, inspect.LiteralType):
            words += map(json.dumps, kind.values)
        elif isinstance(kind, inspect.EnumType):
            words += (json.dumps(member.value) for member in kind.cls)
        elif type(kind) in _WORDS:
            words.append(_WORDS[type(kind)])
    return list(dict.fromkeys(words))


def _listed(words: list[str]) -> str:
    """As in "a, b or c"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
