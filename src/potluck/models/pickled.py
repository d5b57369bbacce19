"""Reads the index of a PyTorch checkpoint (`pytorch_model-*.bin`) without PyTorch and without running its pickle.

The file is a ZIP archive without compression: a pickle that describes the tensors, and one member for each storage. So
each tensor is a byte range of the file, as in a safetensors file. The pickle may name only what describes tensors;
anything else that it would call is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from potluck.errors import ModelError
from potluck.models.files import ITEM_BYTES, Files, RangeFile, Stored, read, truncated

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_READ_AHEAD = 1 << 16
_LOCAL_HEADER = 30


def read_checkpoint(files: Files, file: str) -> list[Stored]:
    """The tensors of the file, with offsets from its beginning. None of their bytes are read.

    Raises ModelError when the file is missing or truncated, has PyTorch's format from before version 1.6, or contains a
    pickle that holds more than tensors.
    """
    where = f"{files.location}/{file}"
    try:
        with zipfile.ZipFile(io.BufferedReader(RangeFile(files, file), _READ_AHEAD)) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise ModelError(f"{where} is not a PyTorch checkpoint: it does not contain data.pkl.")
            prefix = pickled.removesuffix("data.pkl")
            if prefix + "byteorder" in archive.namelist() and archive.read(prefix + "byteorder") != b"little":
                raise ModelError(f"{where} is of big-endian byte order; fetch the model's safetensors files.")
            state = _unpickle(where, archive.read(pickled))
            return [_stored(files, file, archive, prefix, name, view) for name, view in state.items()]
    except (zipfile.BadZipFile, NotImplementedError, KeyError) as error:
        raise ModelError(
            f"{where} is truncated, or is not a PyTorch checkpoint of version 1.6 or later; "
            "fetch it again, or the model's safetensors files."
        ) from error


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str


@dataclass(frozen=True)
class _View:
    """A tensor, as some items of a storage with their strides."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _view(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: object) -> _View:
    """Takes the place of `torch._utils._rebuild_tensor_v2`."""
    return _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(view: _View, *_rest: object) -> _View:
    """Takes the place of `torch._utils._rebuild_parameter`."""
    return view


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows four names, all of which only describe tensors."""

    def __init__(self, where: str, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in known:
            raise ModelError(
                f"{self._where} is refused: loading it would run {module}.{name}; "
                "use the model's safetensors files, or another copy of the model."
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, _items = pid
        if kind != "storage" or dtype not in ITEM_BYTES:
            raise ValueError(f"{kind} is not a storage.")
        return _Storage(dtype, str(key))


def _unpickle(where: str, data: bytes) -> dict[str, _View]:
    try:
        state = _Unpickler(where, data).load()
        return {str(name): value for name, value in state.items() if isinstance(value, _View)}
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{where} holds a broken pickle; fetch it again.") from error


def _stored(files: Files, file: str, archive: zipfile.ZipFile, prefix: str, name: str, view: _View) -> Stored:
    where = f"{files.location}/{file}"
    member = archive.getinfo(f"{prefix}data/{view.storage.key}")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ModelError(f"{where} is compressed, which PyTorch never does; fetch the model's safetensors files.")
    if not _in_rows(view):
        raise ModelError(f"{where} holds {name} out of order; fetch the model's safetensors files.")
    item = ITEM_BYTES[view.storage.dtype]
    nbytes = math.prod(view.shape) * item
    if view.offset < 0 or view.offset * item + nbytes > member.file_size:
        raise truncated(files, file)
    begin = _data_offset(files, file, member) + view.offset * item
    return Stored(name, view.storage.dtype, view.shape, begin, nbytes)


def _in_rows(view: _View) -> bool:
    """Whether the items follow each other in the order of the shape, so that they are one byte range."""
    step = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def _data_offset(files: Files, file: str, member: zipfile.ZipInfo) -> int:
    """The offset of a member's bytes. Its local header has a name and padding of its own length."""
    local = read(files, file, member.header_offset, _LOCAL_HEADER)
    if local[:4] != b"PK\x03\x04":
        raise truncated(files, file)
    name, extra = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
    return member.header_offset + _LOCAL_HEADER + name + extra
