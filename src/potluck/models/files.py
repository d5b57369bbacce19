"""The files of a model, wherever they are: their sizes, their byte ranges, and the readers for them."""

from __future__ import annotations

import hashlib
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from potluck.errors import ModelError
from potluck.models.manifest import Tensor

CHUNK = 1 << 20
"""The number of bytes to read at a time."""

Progress = Callable[[int], None]
"""Receives each number of bytes that have arrived; a negative one takes back bytes that proved to be wrong."""


class Source(Protocol):
    """A source of a model's tensors. Whoever takes tensors from it checks their SHA-256."""

    def fetch(self, tensor: Tensor, start: int = 0) -> Iterator[bytes]:
        """The tensor's bytes from `start` on, in chunks of any size. Raises ModelError when they cannot be read."""

    def distrust(self, tensor: Tensor) -> None:
        """Note that the latest bytes of this tensor were wrong, so that they come from elsewhere if possible."""


class Files(Protocol):
    """The files of a model. `location` names their folder in messages."""

    @property
    def location(self) -> str: ...

    def stream(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        """The bytes `offset` … `offset + nbytes` of one of the files, in chunks of any size.

        Raises ModelError when they cannot be read.
        """

    def size(self, file: str) -> int | None:
        """The size of the file in bytes; None if no file has this name."""


class FileSource(ABC):
    """A `Source` whose tensors are byte ranges of files."""

    @abstractmethod
    def stream(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        """Stream bytes as `Files.stream` does."""

    def fetch(self, tensor: Tensor, start: int = 0) -> Iterator[bytes]:
        return self.stream(tensor.file, tensor.offset + start, tensor.nbytes - start)

    def distrust(self, tensor: Tensor) -> None:  # noqa: B027 — not abstract: this is what files do
        """Do nothing, because there is no other place to take the tensor from."""


class LocalSource(FileSource):
    """The files of a model in one folder of this machine. Implements `Files`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def location(self) -> str:
        return str(self.folder)

    def size(self, file: str) -> int | None:
        path = self.folder / file
        return path.stat().st_size if path.is_file() else None

    def stream(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        try:
            with (self.folder / file).open("rb") as stream:
                stream.seek(offset)
                while nbytes and (chunk := stream.read(min(CHUNK, nbytes))):
                    nbytes -= len(chunk)
                    yield chunk
        except OSError as error:
            raise ModelError(f"{self.folder / file} cannot be read: {error.strerror}.") from error


class Stored(Struct, frozen=True, gc=False):
    """A tensor in the words of its file's own index. dtype: safetensors' name; shape: rows first."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


MOST_DIMENSIONS = 8
LONGEST_DIMENSION = 1 << 40

MOST_TENSORS = 3 << 15
"""DeepSeek-V3, in which each expert of each layer has tensors of its own, has 92,000."""

_LONGEST_NAME = 255
_MOST_JSON = 128 << 20
MOST_VALUES = 1 << 22
"""The most values of a JSON file. The largest tokenizer.json today has 35 MB and 2 million values."""


@lru_cache(maxsize=256)
def is_plain(file: str) -> bool:
    """Whether this names a file in the model's own folder, and can do so on every system."""
    plain = file.isprintable() and not set(file) & {"/", "\\", ":"}
    return plain and 1 <= len(file.encode()) <= _LONGEST_NAME and file not in (".", "..")


def shown(name: object) -> str:
    """A name from a stranger as messages show it: short, and on one line."""
    return repr(str(name)[:100])[1:-1]


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError for a shape that no tensor has. After that, it is safe to multiply its sizes."""
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"it has {len(shape)} dimensions")
    if not all(0 <= size <= LONGEST_DIMENSION for size in shape):
        raise ValueError("one of its dimensions is negative or impossibly large")


def array_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The bytes of an array whose type has one of safetensors' names. Raises ValueError when there can be none."""
    if dtype not in ITEM_BYTES:
        raise ValueError(f"its type {dtype[:20]!r} is unknown")
    check_shape(shape)
    return math.prod(shape) * ITEM_BYTES[dtype]


def parse_json(data: bytes | bytearray, most: int = MOST_VALUES) -> Any:
    """Decode JSON from a stranger. Raises ValueError when it is broken, nested deeply, or has about `most` values.

    Values take many times the memory of their text, and Python's decoder fails at the recursion limit.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > most:
        raise ValueError("too many values")
    try:
        value = json.loads(data)
        if b"\\ud" in data.lower():  # perhaps half of a character, which cannot be written again
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def read(files: Files, file: str, offset: int, nbytes: int) -> bytes:
    """Read exactly these bytes. Raises ModelError when the file ends before them."""
    data = b"".join(files.stream(file, offset, nbytes))
    if len(data) != nbytes:
        raise truncated(files, file)
    return data


def unwritable(path: Path, error: OSError) -> ModelError:
    """The error that a file in the cache cannot be written."""
    reason = error.strerror or error
    return ModelError(f"{path} cannot be written: {reason}. Set POTLUCK_CACHE to a folder that can.")


def truncated(files: Files, file: str) -> ModelError:
    return ModelError(f"{files.location}/{file} is truncated; fetch it again.")


def too_many(files: Files) -> ModelError:
    return ModelError(f"{files.location} holds more than {MOST_TENSORS:,} tensors.")


def read_whole(files: Files, file: str) -> bytes:
    """Read the whole of a small file. Raises ModelError when it does not exist."""
    return read(files, file, 0, existing_size(files, file))


def existing_size(files: Files, file: str) -> int:
    size = files.size(file)
    if size is None:
        raise ModelError(f"{files.location}/{file} is missing; fetch it into the same directory.")
    return size


def read_json(files: Files, file: str, most: int = MOST_VALUES) -> dict[str, Any]:
    """Read a file that contains one JSON object of up to `most` values. Raises ModelError for anything else."""
    if existing_size(files, file) > _MOST_JSON:
        raise ModelError(f"{files.location}/{file} has more than {_MOST_JSON >> 20} MiB; fetch it again.")
    try:
        value = parse_json(read_whole(files, file), most)
    except ValueError as error:
        raise ModelError(f"{files.location}/{file} is not valid JSON; fetch it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{files.location}/{file} does not contain a JSON object; fetch it again.")
    return value


def sha256_each(
    files: Files, file: str, ranges: Sequence[tuple[int, int]], progress: Progress
) -> dict[tuple[int, int], str]:
    """The SHA-256, in hex, of each byte range of a file, which is given as (offset, nbytes). They do not overlap.

    Ranges that touch are streamed as one, because a file may have very many.
    """
    digests: dict[tuple[int, int], str] = {}
    for run in _runs(sorted(ranges)):
        (begin, _), last = run[0], run[-1]
        stream, chunk = files.stream(file, begin, sum(last) - begin), memoryview(b"")
        for offset, nbytes in run:
            digest, left = hashlib.sha256(), nbytes
            while left:
                chunk = chunk or memoryview(next(stream, b""))
                if not chunk:
                    raise truncated(files, file)
                part, chunk = chunk[:left], chunk[left:]
                digest.update(part)
                progress(len(part))
                left -= len(part)
            digests[offset, nbytes] = digest.hexdigest()
    return digests


def _runs(ranges: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The ranges, which are in order, with those together that follow each other without a gap."""
    run: list[tuple[int, int]] = []
    for each in ranges:
        if run and sum(run[-1]) != each[0]:
            yield run
            run = []
        run.append(each)
    if run:
        yield run


class RangeFile(io.RawIOBase):
    """One of the files as a Python file object that fetches what is read of it, for `zipfile`.

    most: the bytes that may be read in all; ModelError is raised instead of reading more.
    """

    def __init__(self, files: Files, file: str, most: int) -> None:
        self._files = files
        self._file = file
        self._size = existing_size(files, file)
        self._position = 0
        self._left = most

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"{base + offset} is not a position in {self._file}.")  # as a real file does
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        nbytes = max(0, min(len(buffer), self._size - self._position))
        if nbytes > self._left:
            raise ModelError(f"{self._files.location}/{self._file} has an impossibly large index; fetch it again.")
        self._left -= nbytes
        if nbytes:
            buffer[:nbytes] = read(self._files, self._file, self._position, nbytes)
            self._position += nbytes
        return nbytes
