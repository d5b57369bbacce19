"""Reads the index of a safetensors file: eight bytes of length, then JSON that gives each tensor's byte range."""

from __future__ import annotations

from typing import Any

from potluck.errors import ModelError
from potluck.models.files import (
    MOST_TENSORS,
    Files,
    Stored,
    array_bytes,
    existing_size,
    parse_json,
    read,
    too_many,
    truncated,
)

_LONGEST_HEADER = 32 << 20
"""The format allows 100 MB, but the manifest of so many tensors would be too long for the nodes."""

_VALUES_OF_A_TENSOR = 12


def read_safetensors(files: Files, file: str) -> list[Stored]:
    """The tensors of the file, with offsets from its beginning. None of their bytes are read.

    Raises ModelError when the file is missing, truncated, or not a safetensors file.
    """
    size = existing_size(files, file)
    if size < 8:
        raise truncated(files, file)
    length = int.from_bytes(read(files, file, 0, 8), "little")
    if length > _LONGEST_HEADER:
        raise _broken(files, file)
    if 8 + length > size:
        raise truncated(files, file)
    try:
        header = parse_json(read(files, file, 8, length), _VALUES_OF_A_TENSOR * MOST_TENSORS)
        header.pop("__metadata__", None)
        if len(header) > MOST_TENSORS:
            raise too_many(files)
        tensors = [_stored(name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(files, file) from error
    if any(tensor.offset + tensor.nbytes > size for tensor in tensors):
        raise truncated(files, file)
    if not _is_filled(tensors, 8 + length, size):
        raise _broken(files, file)
    return tensors


def _broken(files: Files, file: str) -> ModelError:
    return ModelError(f"{files.location}/{file} is not a safetensors file, or a broken one; fetch it again.")


def _stored(name: str, entry: dict[str, Any], data: int) -> Stored:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(number) is int for number in (begin, end, *shape)):
        raise ValueError(f"The numbers of {name} are not integers.")
    if begin < 0 or end - begin != array_bytes(entry["dtype"], shape):
        raise ValueError(f"The byte range of {name} does not fit its shape.")
    return Stored(name, entry["dtype"], shape, data + begin, end - begin)


def _is_filled(tensors: list[Stored], begin: int, size: int) -> bool:
    """Whether the tensors follow each other without gaps or overlaps up to the end of the file, as the format demands.

    A name that occurs twice leaves a gap.
    """
    for tensor in sorted(tensors, key=lambda each: each.offset):
        if tensor.offset != begin:
            return False
        begin += tensor.nbytes
    return begin == size
