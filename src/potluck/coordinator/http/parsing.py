"""Turns JSON bodies into typed requests. The types declare all bounds, and what is wrong is said in a sentence."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from potluck.coordinator.http.complaints import complaint, missing
from potluck.errors import RequestError

R = TypeVar("R", bound=Struct)

_NULL = msgspec.Raw(b"null")
"""OpenAI's way to say that a field is not given."""

_SENTENCE = "sentence"
_BROKEN = re.compile(r"Expected `(\w+)` ((?:of length )?[<>]=?) (\S+)")
"""msgspec's words for a bound that a value exceeds."""
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    ">=": ("ge", operator.ge),
    ">": ("gt", operator.gt),
    "<=": ("le", operator.le),
    "<": ("lt", operator.lt),
    "of length >=": ("min_length", operator.ge),
    "of length <=": ("max_length", operator.le),
}
_SOME = 1000
_MOST_CONTAINERS = 1 << 16
"""The lists and objects of a body, which take about thirty times the memory of their text."""
_PIECE = 16 << 10
_NO_UTF_8 = "The request's body must be UTF-8."
_HALF = re.compile(
    rb"\\u[dD](?:[89abAB][\da-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][\da-fA-F]{2}\\u[dD])[c-fC-F][\da-fA-F]{2})"
)
"""Half of a character of UTF-16 without the other half."""
_NUMBERS: dict[str, type[list[Any]]] = {"int": list[int], "float": list[float]}


def refused_with(sentence: str, **bounds: Any) -> Meta:
    """The bounds of a field, with the sentence for a value outside them, in which {field} and {value} are filled in.

    Bounds without a sentence of their own (`Meta(ge=…, le=…)`) use the words of `_default_sentence`.
    """
    return Meta(**bounds, extra={_SENTENCE: sentence})


def described(**schema: object) -> Meta:
    """The OpenAPI schema of a field that its type cannot check, because the model or another field sets its bound.

    The field is checked where that bound is known.
    """
    return Meta(extra_json_schema=schema)


def parse(body: bytes, kind: type[R], check: Callable[[Mapping[str, msgspec.Raw]], None] = lambda _: None) -> R:
    """Parse a body, in which numbers and truth values may also be written as text, and whole numbers with a fraction
    of zero, as some clients do. Half of a character is read as U+FFFD.

    check: looks at all fields first, by their JSON. Raises RequestError when the body is not JSON, not of this kind, or
    of too many lists and objects.
    """
    if _has_too_many_containers(body):
        raise RequestError(f"The request has more than {_MOST_CONTAINERS} lists and objects.")
    try:
        # Values stay text here: making objects of those that are not known would hold up all nodes.
        fields, known = msgspec.json.decode(body, type=dict[str, msgspec.Raw]), kind.__struct_encode_fields__
        check(fields)
        given = {name: value for name, value in fields.items() if value != _NULL or name not in known}
        return msgspec.json.decode(msgspec.json.encode(given), type=kind, strict=False)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        place = place.rstrip("`")
        field = place.split("[")[0] or missing(text)
        message = _out_of_bounds(text, kind, field, body) or complaint(text, place, kind)
        raise RequestError(message, param=field or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if (whole := _with_whole_characters(body)) != body:
            return parse(whole, kind, check)
        raise RequestError(_unreadable(body, error)) from error


def _with_whole_characters(body: bytes) -> bytes:
    """The body with U+FFFD for each half of a character, which some languages write where they cut a text."""
    if b"\0" in body:  # which JSON never has, and so it stands for backslashes that begin no escape
        return body
    return _HALF.sub(rb"\\ufffd", body.replace(rb"\\", b"\0")).replace(b"\0", rb"\\")


def _unreadable(body: bytes, error: Exception) -> str:
    if not body.strip():
        return "The request has no body."
    try:
        body.decode()
    except UnicodeDecodeError:
        return _NO_UTF_8
    if b"\0" in body:  # a text in UTF-16 may be UTF-8 too
        return _NO_UTF_8
    return f"The request's body is not valid JSON: {error}."


def _has_too_many_containers(body: bytes) -> bool:
    if _brackets(body) <= _MOST_CONTAINERS:
        return False
    text, containers, in_string = body.replace(b"\\\\", b"").replace(b'\\"', b""), 0, False
    for begin in range(0, len(text), _PIECE):  # the parts of the whole text would take many times its memory
        parts = text[begin : begin + _PIECE].split(b'"')
        containers += _brackets(b"".join(parts[in_string::2]))  # every second part is in a string
        in_string ^= len(parts) % 2 == 0
    return containers > _MOST_CONTAINERS


def _brackets(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def _out_of_bounds(text: str, kind: type[Struct], field: str, body: bytes) -> str | None:
    """The sentence of the bound that msgspec's text names; None if the text is about something else."""
    broken = _BROKEN.fullmatch(text)
    if broken is None or field not in kind.__struct_fields__:
        return None
    (name, holds), limit = _BOUNDS[broken[2]], float(broken[3])
    metas = _metas(get_type_hints(kind, include_extras=True)[field])
    meta = next(one for one in metas if getattr(one, name) == limit)
    given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])[field]
    numbers = _numbers(given, _NUMBERS[broken[1]]) if broken[1] in _NUMBERS else iter(())
    culprit = next((number for some in numbers for number in some if not holds(number, limit)), None)
    sentence: str = (meta.extra or {}).get(_SENTENCE) or _default_sentence(meta)
    return sentence.format(field=field, value=culprit)


def _metas(hint: Any) -> Iterator[Meta]:
    """Everything that is declared about a field and about its content, the outermost first."""
    if get_origin(hint) is Annotated:
        yield from (one for one in hint.__metadata__ if isinstance(one, Meta))
    for inner in get_args(hint):
        yield from _metas(inner)


def _default_sentence(meta: Meta) -> str:
    if meta.le is None:
        return f"{{field}} must be at least {meta.ge}, not {{value}}."
    return f"{{field}} must lie between {meta.ge} and {meta.le}, not {{value}}."


def _numbers(given: msgspec.Raw, kind: type[list[float]]) -> Iterator[list[float]]:
    """The field's own number, or the numbers that it maps to, some at a time, because there may be very many.

    Nobody has checked what follows the wrong one, which may be no number: then each of them comes alone.
    """
    mapped = bytes(given).startswith(b"{")
    held = list(msgspec.json.decode(given, type=dict[str, msgspec.Raw]).values()) if mapped else [given]
    for start in range(0, len(held), _SOME):
        some = held[start : start + _SOME]
        try:
            yield msgspec.json.decode(msgspec.json.encode(some), type=kind, strict=False)
        except msgspec.ValidationError:
            yield from (msgspec.json.decode(msgspec.json.encode([one]), type=kind, strict=False) for one in some)
