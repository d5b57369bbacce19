"""Reads the index of a safetensors file: eight bytes of length, then JSON that gives each tensor's byte range."""

from __future__ import annotations

import json
import math
from typing import Any

from potluck.errors import ModelError
from potluck.models.files import ITEM_BYTES, Files, Stored, existing_size, read, truncated

_MAX_HEADER = 100_000_000  # the format's own limit


def read_safetensors(files: Files, file: str) -> list[Stored]:
    """The tensors of the file, with offsets from its beginning. None of their bytes are read.

    Raises ModelError when the file is missing, truncated, or not a safetensors file.
    """
    size = existing_size(files, file)
    if size < 8:
        raise truncated(files, file)
    length = int.from_bytes(read(files, file, 0, 8), "little")
    if length > _MAX_HEADER:
        raise _broken(files, file)
    if 8 + length > size:
        raise truncated(files, file)
    try:
        header = json.loads(read(files, file, 8, length))
        tensors = [_stored(name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _broken(files, file) from error
    if any(tensor.offset + tensor.nbytes > size for tensor in tensors):
        raise truncated(files, file)
    return tensors


def _broken(files: Files, file: str) -> ModelError:
    return ModelError(f"{files.location}/{file} is not a safetensors file, or a broken one; fetch it again.")


def _stored(name: str, entry: dict[str, Any], data: int) -> Stored:
    begin, end = map(int, entry["data_offsets"])
    shape = tuple(map(int, entry["shape"]))
    if not 0 <= begin <= end or end - begin != math.prod(shape) * ITEM_BYTES[entry["dtype"]]:
        raise ValueError(f"The byte range of {name} does not fit its shape.")
    return Stored(name, entry["dtype"], shape, data + begin, end - begin)
