"""Reads the index of a GGUF file: its metadata, and where its tensors are. A hostile file is refused quickly.

A file may claim anything, so every count and every length is compared with what is left of the file, or with a bound,
before anything is read or allocated.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from msgspec.structs import replace

from potluck.errors import ModelError
from potluck.models.files import MOST_TENSORS, Files, Stored, check_shape, existing_size, read

_HEAD = struct.Struct("<4sIQQ")
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MOST_ALIGNMENT = 1 << 16
MOST_KEYS = 1 << 12
_LONGEST_NAME = 256
LONGEST_VALUE = 1 << 16
"""The most bytes of a string, and the most items of an array, outside the tokenizer."""
_MOST_KEPT = 1 << 21
"""The most bytes of all values outside the tokenizer."""
_MOST_STRINGS = 1 << 21
"""The most strings in the tokenizer's arrays. Each has a length of its own, so each has to be looked at."""
_FIRST_BYTES = 1 << 16
_LONGEST_HEAD = 1 << 28
"""The most bytes that are read of a file elsewhere. The heads of today's models have up to 30 MiB."""

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

Metadata = dict[str, tuple[list[str], Any]]
"""The value types (`["ARRAY", "INT32"]`, `["FLOAT32"]`) and the value of each key."""


class GgufIndex(NamedTuple):
    """metadata: without the tokenizer's keys, and without empty arrays, which cannot be written again.

    tensors: their dtypes have GGUF's names, their shapes begin with the row length.
    """

    metadata: Metadata
    tensors: tuple[Stored, ...]


class Head(NamedTuple):
    """The beginning of a GGUF file elsewhere. vocabulary: a GGUF file of its metadata, the tokenizer's included.

    It has no tensors, because llama.cpp refuses a file that names tensors beyond its end, and no `split.` keys, because
    llama.cpp would look for the other parts.
    """

    contents: GgufIndex
    vocabulary: bytes


def ggml_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The bytes of a tensor whose type has one of GGUF's names. Raises ValueError when there can be no such tensor."""
    if dtype not in GGMLQuantizationType.__members__:
        raise ValueError(f"its type {dtype[:20]!r} is unknown")
    check_shape(shape)
    block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    if (shape[0] if shape else 1) % block:
        raise ValueError(f"its rows are not a whole number of blocks of {dtype}")
    return math.prod(shape) // block * nbytes


def is_alignment(value: Any) -> bool:
    """Whether llama.cpp accepts this as the alignment of a file."""
    return isinstance(value, int) and 1 <= value <= _MOST_ALIGNMENT and value & (value - 1) == 0


def read_index(path: Path) -> GgufIndex:
    """Raises ModelError, with the reason, when the file is not a GGUF file that llama.cpp could read."""
    size = path.stat().st_size
    if not size:  # which cannot be mapped
        raise ModelError(f"{path} is not a GGUF file.")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        _complaints_about(str(path)),
    ):
        return _Reader(data, size).index()


def read_head(files: Files, file: str) -> Head:
    """The same of a file elsewhere, of which no more is read than is needed. Raises ModelError likewise."""
    size, where = existing_size(files, file), f"{files.location}/{file}"
    data, wanted = bytearray(), _FIRST_BYTES
    while True:
        data += read(files, file, len(data), min(size, wanted) - len(data))
        try:
            with _complaints_about(where):
                reader = _Reader(data, size)
                return Head(reader.index(), reader.vocabulary())
        except _Unread as error:
            if error.needed > _LONGEST_HEAD:
                raise ModelError(f"{where} has an impossibly large index.") from error
            wanted = min(_LONGEST_HEAD, max(error.needed, 4 * len(data)))


@contextmanager
def _complaints_about(where: str) -> Iterator[None]:
    try:
        yield
    except _NoGguf as error:
        raise ModelError(f"{where} is not a GGUF file.") from error
    except (_Broken, UnicodeDecodeError) as error:
        what = error if isinstance(error, _Broken) else "one of its texts is not UTF-8"
        raise ModelError(f"{where} is a broken or truncated GGUF file ({what}); fetch it again.") from error


class _NoGguf(Exception):
    """The file is of another kind."""


class _Broken(Exception):
    """What is wrong with the file."""


class _Unread(Exception):
    """The index does not end within the bytes that were read. needed: the number of bytes to read, or more."""

    def __init__(self, needed: int) -> None:
        self.needed = needed


class _Reader:
    """Goes through the bytes of an index once, from the beginning to the end.

    data: the file, or the beginning of one that has `size` bytes.
    """

    def __init__(self, data: mmap.mmap | bytearray, size: int) -> None:
        self._data = data
        self._size = size
        self._position = 0
        self._entries: list[tuple[int, int]] = []
        """The beginning and the end of each entry of the metadata, but for those that are about parts."""
        self._kept = 0
        self._strings = 0

    def index(self) -> GgufIndex:
        if self._size < _HEAD.size or self._data[:4] != b"GGUF":
            raise _NoGguf
        _, version, tensors, keys = _HEAD.unpack(self._take(_HEAD.size))
        if version & 0xFFFF == 0:
            raise _Broken("it is big-endian")
        if version not in _VERSIONS:
            raise _Broken(f"its version is {version}")
        if tensors > MOST_TENSORS or keys > MOST_KEYS:
            raise _Broken(f"it claims {tensors} tensors and {keys} keys")
        metadata = self._metadata(keys)
        kinds, alignment = metadata.get("general.alignment", (["UINT32"], _DEFAULT_ALIGNMENT))
        if kinds != ["UINT32"] or not is_alignment(alignment):
            raise _Broken("its alignment is not a power of two within bounds")
        found = [self._tensor() for _ in range(tensors)]
        data = -(-self._position // alignment) * alignment
        stored = tuple(replace(item, offset=data + item.offset) for item in found)
        self._check(stored)
        return GgufIndex({key: entry for key, entry in metadata.items() if entry[1] != []}, stored)

    def vocabulary(self) -> bytes:
        """The metadata as a file without tensors, once the index has been read."""
        _, version, _, _ = _HEAD.unpack_from(self._data)
        head = _HEAD.pack(b"GGUF", version, 0, len(self._entries))
        return b"".join([head, *(self._data[begin:end] for begin, end in self._entries)])

    def _check(self, tensors: tuple[Stored, ...]) -> None:
        if len({item.name for item in tensors}) < len(tensors):
            raise _Broken("two of its tensors have the same name")
        for item in tensors:
            if item.offset + item.nbytes > self._size:
                raise _Broken(f"it has {self._size} bytes, but {item.name} ends at {item.offset + item.nbytes}")

    def _take(self, nbytes: int) -> bytes:
        begin = self._position
        self._skip(nbytes)
        return bytes(self._data[begin : self._position])

    def _skip(self, nbytes: int) -> None:
        if nbytes > self._size - self._position:
            raise self._truncated()
        if self._position + nbytes > len(self._data):
            raise _Unread(self._position + nbytes)
        self._position += nbytes

    def _truncated(self) -> _Broken:
        return _Broken(f"it has {self._size} bytes, and its index does not end within them")

    def _numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{code}", self._take(count * struct.calcsize(f"<{code}")))

    def _text(self, longest: int) -> str:
        [length] = self._numbers("Q")
        if length > longest:
            raise _Broken(f"it claims a text of {length} bytes")
        return self._take(length).decode()

    def _metadata(self, keys: int) -> Metadata:
        metadata: Metadata = {}
        for _ in range(keys):
            begin, key = self._position, self._text(_LONGEST_NAME)
            if key in metadata:
                raise _Broken(f"it has the key {key} twice")
            kind = self._kind()
            metadata[key] = self._skip_value(kind) if key.startswith("tokenizer.") else self._value(kind)
            if not key.startswith("split."):
                self._entries.append((begin, self._position))
        return {key: entry for key, entry in metadata.items() if not key.startswith("tokenizer.")}

    def _kind(self) -> GGUFValueType:
        [number] = self._numbers("I")
        try:
            return GGUFValueType(number)
        except ValueError as error:
            raise _Broken(f"it has a value of the unknown type {number}") from error

    def _array(self) -> tuple[GGUFValueType, int]:
        """The type and the number of the items that follow."""
        kind, [count] = self._kind(), self._numbers("Q")
        if kind is GGUFValueType.ARRAY:
            raise _Broken("it has an array of arrays")
        return kind, count

    def _value(self, kind: GGUFValueType) -> tuple[list[str], Any]:
        if kind is not GGUFValueType.ARRAY:
            return [kind.name], self._items(kind, 1)[0]
        item, count = self._array()
        if count > LONGEST_VALUE:
            raise _Broken(f"it claims an array of {count} items")
        return [kind.name, item.name], self._items(item, count)

    def _items(self, kind: GGUFValueType, count: int) -> list[Any]:
        begin = self._position
        if kind is GGUFValueType.STRING:
            items: list[Any] = [self._text(LONGEST_VALUE) for _ in range(count)]
        else:
            items = list(self._numbers(_SCALARS[kind], count))
        self._kept += self._position - begin
        if self._kept > _MOST_KEPT:
            raise _Broken(f"its metadata have more than {_MOST_KEPT} bytes")
        return items

    def _skip_value(self, kind: GGUFValueType) -> tuple[list[str], None]:
        count = 1
        if kind is GGUFValueType.ARRAY:
            kind, count = self._array()
        if kind is not GGUFValueType.STRING:
            self._skip(count * struct.calcsize(f"<{_SCALARS[kind]}"))
            return [], None
        self._strings += count
        if self._strings > _MOST_STRINGS:
            raise _Broken(f"it claims {self._strings} texts")
        length_at, data, position, last = (
            struct.Struct("<Q").unpack_from,
            self._data,
            self._position,
            len(self._data) - 8,
        )
        for _ in range(count):
            if position > last:
                self._skip(position + 8 - self._position)  # raises, because not so much is there
            position += 8 + length_at(data, position)[0]
        self._skip(position - self._position)
        return [], None

    def _tensor(self) -> Stored:
        """A tensor, with its offset from the beginning of the data."""
        name = self._text(_LONGEST_NAME)
        [dimensions] = self._numbers("I")
        if dimensions > _LONGEST_NAME:
            raise _Broken(f"{name} claims {dimensions} dimensions")
        shape = self._numbers("Q", dimensions)
        number, offset = struct.unpack("<IQ", self._take(12))
        try:
            dtype = GGMLQuantizationType(number).name
            return Stored(name, dtype, shape, offset, ggml_bytes(dtype, shape))
        except ValueError as error:
            raise _Broken(f"its tensor {name[:64]!r} is impossible: {error}") from error
