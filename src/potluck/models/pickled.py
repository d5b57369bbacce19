"""Reads the index of a PyTorch checkpoint (`pytorch_model-*.bin`) without PyTorch and without running its pickle.

The file is a ZIP archive without compression: a pickle that describes the tensors, and one member for each storage. So
each tensor is a byte range of the file, as in a safetensors file. The pickle may name only what describes tensors;
anything else that it would call is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from potluck.errors import ModelError
from potluck.models.files import ITEM_BYTES, Files, RangeFile, Stored, array_bytes, check_shape, read, shown, truncated

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
_LONGEST_INDEX = 16 << 20
"""The most bytes that are read of the archive: its directory and its pickle."""

_MOST_OPERATIONS = 1 << 20
_OPERATIONS = frozenset(
    """PROTO FRAME STOP GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2
    LONG LONG1 FLOAT BINFLOAT UNICODE BINUNICODE SHORT_BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 LIST EMPTY_LIST
    APPEND APPENDS DICT EMPTY_DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    """.split()  # noqa: SIM905
)
"""All that torch.save writes for a dictionary of tensors, in any version of the pickle's format."""
_PUT, _GET = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
_SHARED = ("GLOBAL", "STACK_GLOBAL", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "REDUCE")
"""The operations whose results it uses more than once: names and tensors."""
_NO_ARCHIVE = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    KeyError,
    ValueError,
    OSError,
    OverflowError,
    MemoryError,
    EOFError,
    struct.error,
)
"""What `zipfile` raises for what is not a ZIP archive. RuntimeError: it is encrypted."""


def read_checkpoint(files: Files, file: str) -> list[Stored]:
    """The tensors of the file, with offsets from its beginning. None of their bytes are read.

    Raises ModelError when the file is missing or truncated, has PyTorch's format from before version 1.6, or contains a
    pickle that holds more than tensors.
    """
    where = f"{files.location}/{file}"
    try:
        with zipfile.ZipFile(io.BufferedReader(RangeFile(files, file, _LONGEST_INDEX), _READ_AHEAD)) as archive:
            pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if pickled is None:
                raise ModelError(f"{where} is not a PyTorch checkpoint: it does not contain data.pkl.")
            prefix = pickled.removesuffix("data.pkl")
            order = prefix + "byteorder"
            if order in archive.namelist() and _content(where, archive, order) != b"little":
                raise ModelError(f"{where} has big-endian byte order; fetch the model's safetensors files.")
            state = _unpickle(where, _content(where, archive, pickled))
            return [_stored(files, file, archive, prefix, name, view) for name, view in state.items()]
    except _NO_ARCHIVE as error:
        raise ModelError(
            f"{where} is truncated, or is not a PyTorch checkpoint of version 1.6 or later; "
            "fetch it again, or the model's safetensors files."
        ) from error


def _content(where: str, archive: zipfile.ZipFile, name: str) -> bytes:
    """A member, which may not become larger than it is in the file."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise _compressed(where)
    if member.file_size > _LONGEST_INDEX:
        raise zipfile.BadZipFile(f"{name} is too long")
    return archive.read(name)


def _compressed(where: str) -> ModelError:
    return ModelError(f"{where} is compressed, which PyTorch never does; fetch the model's safetensors files.")


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
    if not isinstance(storage, _Storage):
        raise ValueError("A tensor without a storage.")
    check_shape(shape)
    return _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(view: _View, *_rest: object) -> _View:
    """Takes the place of `torch._utils._rebuild_parameter`."""
    if not isinstance(view, _View):
        raise ValueError("A parameter that is not a tensor.")
    return view


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows only names that describe tensors."""

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
                f"{self._where} is refused: loading it would run {shown(module + '.' + name)}; "
                "use the model's safetensors files, or another copy of the model."
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, _items = pid
        if kind != "storage" or dtype not in ITEM_BYTES or not isinstance(key, str):
            raise ValueError("This is not a storage.")
        return _Storage(dtype, key)


def _unpickle(where: str, data: bytes) -> dict[str, _View]:
    try:
        _check_operations(data)
        state = _Unpickler(where, data).load()
        return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, _View)}
    except (
        pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, KeyError, OverflowError,
    ) as error:  # fmt: skip
        raise ModelError(f"{where} holds a broken pickle; fetch it again.") from error


def _check_operations(data: bytes) -> None:
    """Raises ValueError for a pickle that could take more time or memory than its own size.

    The memo is an array as long as its largest index. And if each tuple contains the one before it twice, taken from
    the memo, the last one has exponentially many parts.
    """
    memo: dict[int, bool] = {}  # whether a part may occur twice
    top = ""  # the operation that made the top of the stack
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name not in _OPERATIONS or count == _MOST_OPERATIONS:
            raise ValueError(f"The operation {operation.name} is not one of torch.save.")
        if operation.name in _PUT:
            place = len(memo) if operation.name == "MEMOIZE" else int(argument or 0)
            if place > count:
                raise ValueError("The memo has gaps.")
            memo[place] = top in _SHARED
            continue
        if operation.name in _GET and not memo.get(int(argument or 0)):
            raise ValueError("A part occurs twice.")
        top = operation.name


def _stored(files: Files, file: str, archive: zipfile.ZipFile, prefix: str, name: str, view: _View) -> Stored:
    where = f"{files.location}/{file}"
    member = archive.getinfo(f"{prefix}data/{view.storage.key}")
    if member.compress_type != zipfile.ZIP_STORED:
        raise _compressed(where)
    if not _in_rows(view):
        raise ModelError(f"{where} holds {shown(name)} out of order; fetch the model's safetensors files.")
    item, nbytes = ITEM_BYTES[view.storage.dtype], array_bytes(view.storage.dtype, view.shape)
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
