"""Writes the second half of protocol.md, every message, from the types and their docstrings: `make docs`."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import get_args

from msgspec import NODEFAULT, Struct, structs

from potluck import types
from potluck.types import MAX_CANDIDATES, MAX_STEP_ROWS
from potluck.wire import messages
from potluck.wire.codec import MAX_FRAME
from potluck.wire.handshake import NONCE_BYTES
from potluck.wire.message import Message
from potluck.wire.messages import MOST_STATE, PROTOCOL_VERSION, FromCoordinator, FromNode

PAGE = Path(__file__).with_name("protocol.md")
MARK = "<!-- From here on `make docs` writes this page. -->\n"

LIMITS = {
    "protocol version": PROTOCOL_VERSION,
    "bytes of a frame, at most": MAX_FRAME,
    "bytes of a nonce": NONCE_BYTES,
    "rows of a step, at most": MAX_STEP_ROWS,
    "likeliest candidates of a row, at most": MAX_CANDIDATES,
    "bytes of a session's keys and values that may move": MOST_STATE,
}


def described(docstring: str, names: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """(prose, meaning of each field): a line of a docstring that begins with fields and a colon is about them."""
    label = rf"((?:{'|'.join(names) or '(?!)'})(?:, (?:{'|'.join(names) or '(?!)'}))*): "
    prose, meanings = [], dict[str, str]()
    for paragraph in inspect.cleandoc(docstring).split("\n\n"):
        text = re.sub(rf"\n(?={label})", "\0", paragraph).replace("\n", " ")
        text = re.sub(rf"(?<=\. )(?={label})", "\0", text)
        for piece in text.split("\0"):
            if found := re.match(label, piece):
                meanings |= dict.fromkeys(found[1].split(", "), piece[found.end() :])
            else:
                prose.append(piece)
    return " ".join(prose), meanings


COMMON_FIELDS = ("session", "route", "step", "rows", "position", "queue_s", "compute_s", "reason", "left")
COMMON = described(messages.__doc__ or "", COMMON_FIELDS)[1]


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def field_lines(kind: type[Message], meanings: dict[str, str]) -> Iterator[str]:
    """A line for the fields of each meaning. Raises KeyError for a field that nobody has described."""
    for meaning, group in groupby(structs.fields(kind), lambda field: meanings.get(field.name) or COMMON[field.name]):
        fields = list(group)
        names = ", ".join(f"`{field.name}`" for field in fields)
        notes = ", ".join(dict.fromkeys(kind.__annotations__[field.name] for field in fields))
        default = "" if fields[0].default is NODEFAULT else f", default `{fields[0].default!r}`"
        yield wrapped(f"* {names} ({notes}{default}): {meaning}", "  ")


def message(kind: type[Message]) -> str:
    prose, meanings = described(kind.__doc__ or "", kind.__struct_fields__)
    told = wrapped(f"`{kind.__struct_config__.tag}`: {prose}")
    return "\n".join([f"### {kind.__name__}", "", told, "", *field_lines(kind, meanings)]).rstrip()


def value(kind: type[Struct] | type[StrEnum]) -> str:
    """One of the values that fields hold, as a line."""
    if issubclass(kind, StrEnum):
        shape = "a string, " + " or ".join(f"`{member.value}`" for member in kind)
    else:
        shape = "a map of " + ", ".join(f"`{name}` ({kind.__annotations__[name]})" for name in kind.__struct_fields__)
    return wrapped(f"* `{kind.__name__}`: {shape}. {' '.join(inspect.cleandoc(kind.__doc__ or '').split())}", "  ")


def values() -> list[type[Struct] | type[StrEnum]]:
    """Those of `types` that some message holds, or that one of these holds."""
    named = _named(get_args(FromNode | FromCoordinator))
    within = _named(kind for kind in named.values() if issubclass(kind, Struct))
    return [kind for _, kind in sorted((named | within).items())]


def _named(kinds: Iterable[type[Struct]]) -> dict[str, type[Struct] | type[StrEnum]]:
    """The types of their fields, by name."""
    notes = " ".join(note for kind in kinds for note in kind.__annotations__.values())
    return {name: getattr(types, name) for name in re.findall(r"[A-Z]\w+", notes) if name != "None"}


def generated() -> str:
    limits = [f"| {name} | {number:,} |" for name, number in LIMITS.items()]
    return "\n\n".join(
        [
            "## Limits\n\n| | |\n|---|---|\n" + "\n".join(limits),
            "## Values\n\n" + "\n".join(map(value, values())),
            "## From a node",
            *map(message, get_args(FromNode)),
            "## From the coordinator",
            *map(message, get_args(FromCoordinator)),
        ]
    )


def page(text: str) -> str:
    """The page with its second half made anew."""
    written, _, _ = text.partition(MARK)
    return f"{written}{MARK}\n{generated()}\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
