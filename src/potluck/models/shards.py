"""Makes one index of a GGUF model that comes in several files, such as `model-00001-of-00003.gguf`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from potluck.errors import ModelError
from potluck.models.files import MOST_TENSORS, Files, Stored, shown, too_many
from potluck.models.gguf_index import GgufIndex, Metadata

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_MOST_PARTS = 1 << 10

_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


class Parts(NamedTuple):
    """metadata: those of the first part, without what says that it is one. tensors: of all parts, with their files."""

    metadata: Metadata
    tensors: tuple[tuple[str, Stored], ...]


def parts_of(file: str) -> tuple[str, ...]:
    """The files of the model to which a file belongs by its name, in order. A model that is not split has just one."""
    match = _PART.fullmatch(file)
    if match is None or not 1 <= int(match[2]) <= int(match[3]) <= _MOST_PARTS:
        return (file,)
    return tuple(f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1))


def name_of(file: str) -> str:
    """The model's name according to one of its files."""
    match = _PART.fullmatch(file)
    return match[1] if match else file.removesuffix(".gguf")


def read_parts(files: Files, file: str, read: Callable[[str], GgufIndex]) -> Parts:
    """Read all parts of the model to which the file belongs. read: gives the index of one file.

    Raises ModelError when a part is missing, when one belongs elsewhere, or when they do not make up a model.
    """
    names = parts_of(file)
    for name in names:
        if files.size(name) is None and len(names) > 1:
            raise ModelError(
                f"{files.location}/{shown(name)} is missing, and without it the model, which comes in {len(names)} "
                "files, is not complete."
            )
    first, tensors = _first(files, names[0], read(names[0]), len(names))
    for number, name in enumerate(names[1:], 1):
        index = read(name)
        _check_number(f"{files.location}/{name}", index.metadata, number, len(names))
        tensors += [(name, item) for item in index.tensors]
        if len(tensors) > MOST_TENSORS:
            raise too_many(files)
    if len(names) > 1:
        _check_union(f"{files.location}/{names[0]}", first, tensors)
    return Parts({key: entry for key, entry in first.items() if not key.startswith("split.")}, tuple(tensors))


def _first(files: Files, name: str, index: GgufIndex, count: int) -> tuple[Metadata, list[tuple[str, Stored]]]:
    where = f"{files.location}/{name}"
    if count > 1:
        _check_number(where, index.metadata, 0, count)
    else:
        _check_whole(where, index.metadata)
    return index.metadata, [(name, item) for item in index.tensors]


def _value(metadata: Metadata, key: str, kind: str) -> int | None:
    """A number of the type as which llama.cpp reads it; None if there is none."""
    kinds, value = metadata.get(key, ([], None))
    return value if kinds == [kind] else None


def _check_number(where: str, metadata: Metadata, number: int, count: int) -> None:
    told, of = _value(metadata, _NUMBER, "UINT16"), _value(metadata, _COUNT, "UINT16")
    if (told, of) != (number, count):
        says = "is no part of a model" if told is None else f"says that it is part {told + 1} of {of}"
        raise ModelError(f"{where} is part {number + 1} of {count} by its name, but {says}; fetch it again.")


def _check_whole(where: str, metadata: Metadata) -> None:
    """Raises ModelError for a part that has lost its name, by which the other parts would be found."""
    number, count = _value(metadata, _NUMBER, "UINT16") or 0, _value(metadata, _COUNT, "UINT16") or 0
    if count > 1:
        raise ModelError(
            f"{where} is part {number + 1} of {count} of a model: give all parts the names that they had, "
            f"such as model-{number + 1:05d}-of-{count:05d}.gguf."
        )


def _check_union(where: str, first: Metadata, tensors: list[tuple[str, Stored]]) -> None:
    told = _value(first, _TENSORS, "INT32")
    if told != len(tensors):
        raise ModelError(f"{where} says that the model has {told} tensors, but its parts hold {len(tensors)}.")
    [(name, times)] = Counter(item.name for _, item in tensors).most_common(1) or [("", 0)]
    if times > 1:
        places = " and ".join(sorted({file for file, item in tensors if item.name == name}))
        raise ModelError(f"{where} is broken, because {shown(name)} is in {places}; fetch all parts again.")
