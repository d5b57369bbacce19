"""The files of a model, wherever they lie: sizes and byte ranges, and what they are read with."""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from potluck.errors import ModelError
from potluck.models.manifest import Tensor

CHUNK = 1 << 20
"""Bytes to read at a time."""

Progress = Callable[[int], None]
"""Called with each number of bytes that have come in; a negative one takes back what proved to be wrong."""


class Source(Protocol):
    """Where the tensors of a model come from. Whoever takes them checks their SHA-256."""

    def fetch(self, tensor: Tensor, start: int = 0) -> Iterator[bytes]:
        """The tensor's bytes from `start` on, in chunks of any size. Raises ModelError when they cannot be had."""

    def distrust(self, tensor: Tensor) -> None:
        """What was fetched of this tensor last proved wrong: take it from elsewhere, if there is an elsewhere."""


class Files(Protocol):
    """The files of a model; `location` names their folder in messages."""

    @property
    def location(self) -> str: ...

    def stream(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        """The bytes `offset` … `offset + nbytes` of one of the files, in chunks of any size.

        Raises ModelError when they cannot be had.
        """

    def size(self, file: str) -> int | None:
        """Bytes of the file; None when there is none of this name."""


class FileSource(ABC):
    """A `Source` whose tensors are byte ranges of files."""

    @abstractmethod
    def stream(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        """As `Files.stream`."""

    def fetch(self, tensor: Tensor, start: int = 0) -> Iterator[bytes]:
        return self.stream(tensor.file, tensor.offset + start, tensor.nbytes - start)

    def distrust(self, tensor: Tensor) -> None:  # noqa: B027 — not abstract: this is what files do
        """There is nowhere else to take it from."""


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


@dataclass(frozen=True)
class Stored:
    """A tensor as its file's own index gives it. dtype: as safetensors names it; shape: rows first."""

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


def read(files: Files, file: str, offset: int, nbytes: int) -> bytes:
    """These bytes exactly; ModelError when the file ends before."""
    data = b"".join(files.stream(file, offset, nbytes))
    if len(data) != nbytes:
        raise truncated(files, file)
    return data


def truncated(files: Files, file: str) -> ModelError:
    return ModelError(f"{files.location}/{file} is truncated; fetch it again.")


def read_whole(files: Files, file: str) -> bytes:
    """All of a small file; ModelError when there is none."""
    return read(files, file, 0, existing_size(files, file))


def existing_size(files: Files, file: str) -> int:
    size = files.size(file)
    if size is None:
        raise ModelError(f"{files.location}/{file} is missing; fetch it into the same directory.")
    return size


def read_json(files: Files, file: str) -> dict[str, Any]:
    """A file that holds one JSON object; ModelError for anything else."""
    try:
        value = json.loads(read_whole(files, file))
    except ValueError as error:
        raise ModelError(f"{files.location}/{file} is not valid JSON; fetch it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{files.location}/{file} holds no JSON object; fetch it again.")
    return value


def sha256(files: Files, file: str, offset: int, nbytes: int, progress: Progress) -> str:
    """Of a byte range, in hex."""
    digest = hashlib.sha256()
    for chunk in files.stream(file, offset, nbytes):
        digest.update(chunk)
        progress(len(chunk))
        nbytes -= len(chunk)
    if nbytes:
        raise truncated(files, file)
    return digest.hexdigest()


class RangeFile(io.RawIOBase):
    """One of the files as a Python file object that fetches what is read of it, for `zipfile`."""

    def __init__(self, files: Files, file: str) -> None:
        self._files = files
        self._file = file
        self._size = existing_size(files, file)
        self._position = 0

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
        if nbytes:
            buffer[:nbytes] = read(self._files, self._file, self._position, nbytes)
            self._position += nbytes
        return nbytes
