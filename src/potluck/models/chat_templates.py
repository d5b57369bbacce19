"""Finds the chat templates of a Hugging Face directory, in each of the places where transformers looks for them."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from potluck.errors import ModelError
from potluck.models.files import Files, read_json, read_whole

DEFAULT, TOOL_USE = "default", "tool_use"
"""The names of the template of ordinary chats, and of the one for chats in which tools are offered."""

_FILES = {DEFAULT: "chat_template.jinja", TOOL_USE: f"additional_chat_templates/{TOOL_USE}.jinja"}
_JSON = ("tokenizer_config.json", "chat_template.json")
"""The files that have a key `chat_template`; the second is that of older models that also see."""

_LONGEST = 4 << 20
"""The most bytes of a file with a chat template. Those that can be rendered have far fewer."""


class _Template(Struct, frozen=True):
    """One of several chat templates."""

    name: str
    template: str


class _Config(Struct, frozen=True):
    """What is read of a JSON file."""

    chat_template: str | list[_Template] | None = None


def chat_templates(files: Files) -> dict[str, str]:
    """The templates by their names, DEFAULT among them if there are any.

    Files of their own go before the keys in JSON files. Of named ones without a default, the first is the default.
    Raises ModelError when a file cannot be read.
    """
    found = {name: _text(files, file) for name, file in _FILES.items() if files.size(file) is not None}
    for file in _JSON:
        found = found or _of_json(files, file)
    return found if not found or DEFAULT in found else {DEFAULT: next(iter(found.values())), **found}


def _text(files: Files, file: str) -> str:
    if (files.size(file) or 0) > _LONGEST:
        raise ModelError(f"{files.location}/{file} has more than {_LONGEST >> 20} MiB; fetch it again.")
    try:
        return read_whole(files, file).decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{files.location}/{file} is not a text in UTF-8; fetch it again.") from error


def _of_json(files: Files, file: str) -> dict[str, str]:
    if files.size(file) is None:
        return {}
    try:
        told = msgspec.convert(read_json(files, file), _Config).chat_template
    except (msgspec.ValidationError, RecursionError) as error:
        raise ModelError(f"{Path(files.location) / file} is broken ({error}); fetch it again.") from error
    if isinstance(told, list):
        return {one.name: one.template for one in told}
    return {} if told is None else {DEFAULT: told}
