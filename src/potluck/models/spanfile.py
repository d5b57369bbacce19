"""Writes span files: small GGUF files with only the tensors of a span, resumable and verified tensor by tensor."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Any

import numpy as np
from filelock import FileLock
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFValueType, GGUFWriter
from gguf.quants import quant_shape_to_byte_shape, quantize

from potluck.errors import IntegrityError, ModelError
from potluck.models.arrays import Array, check_length, fetch_verified, read_array, to_float32
from potluck.models.files import CHUNK, Progress, Source, unwritable
from potluck.models.finished import Finished
from potluck.models.manifest import Tensor
from potluck.platform import replace

_SLAB = 1 << 22  # values turned into float32 and quantized at a time: what a conversion needs beside its tensor
_SPARE_DISK = 256 << 20
"""The bytes of the disk that stay free for others."""


class Unusable(ModelError):
    """Bytes that are the model's, but of which no span file can be made."""


@dataclass(frozen=True)
class Header:
    """GGUF metadata: the value types (`["ARRAY", "INT32"]`, `["FLOAT32"]`) and the value of each key."""

    architecture: str
    entries: dict[str, tuple[list[str], Any]]


@dataclass(frozen=True)
class Copied:
    """The unchanged bytes of `tensor`."""

    tensor: Tensor


@dataclass(frozen=True)
class Converted:
    """The tensors' arrays made into one array by `arrange`, in the piece's shape, and then quantized.

    All tensors have the same dtype. Without any tensors, `arrange` gives a float32 constant. It takes a copy unless it
    is `as_it_is`. floats: it computes with the values, so that it gets float32, and not the bits of bfloat16.
    """

    tensors: tuple[Tensor, ...]
    arrange: Callable[..., Array]
    floats: bool = False

    @property
    def dtype(self) -> str:
        """The type of what `arrange` gives."""
        return self.tensors[0].dtype if self.tensors and not self.floats else "F32"


def as_it_is(values: Array) -> Array:
    return values


@dataclass(frozen=True)
class Zeros:
    """Zeros that llama.cpp needs to find but that no result depends on."""


@dataclass(frozen=True)
class Piece:
    """One tensor of a span file. shape: in GGUF's order, the row length first."""

    name: str
    shape: tuple[int, ...]
    dtype: GGMLQuantizationType
    content: Copied | Converted | Zeros

    @property
    def nbytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.dtype]
        return reduce(int.__mul__, self.shape, 1) // block * size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The model's tensors that the piece is made of."""
        match self.content:
            case Copied(tensor):
                return (tensor,)
            case Converted(tensors):
                return tensors
            case Zeros():
                return ()


def download_size(pieces: list[Piece]) -> int:
    """The bytes of the model that these pieces need."""
    return sum(tensor.nbytes for piece in pieces for tensor in piece.tensors)


def file_size(pieces: list[Piece]) -> int:
    """The bytes that the span file of these pieces takes on disk, but for its header. Zeros are holes in it."""
    return sum(piece.nbytes for piece in pieces if not isinstance(piece.content, Zeros))


def conversion_size(pieces: list[Piece]) -> int:
    """The most bytes of memory that one of the conversions takes: the whole tensor, and a second one in other order."""
    conversions = [(piece.content, piece.tensors) for piece in pieces if isinstance(piece.content, Converted)]
    sizes = [(1 if made.arrange is as_it_is else 2) * sum(each.nbytes for each in used) for made, used in conversions]
    return max(sizes, default=0)


def write_span_file(path: Path, header: Header, pieces: list[Piece], source: Source, progress: Progress) -> None:
    """Make the span file at `path` unless it exists.

    It grows as `path` + ".part", with a list of the finished conversions beside it. What an interrupted run has left is
    verified and kept; what can never be finished is removed. Raises IntegrityError when a tensor has the wrong SHA-256
    twice, ModelError when the source fails or the disk has no room.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_path(path)):  # nodes of one machine may want the same span
            _write(path, header, pieces, source, progress)
    except OSError as error:
        raise unwritable(path, error) from error


def lock_path(path: Path) -> Path:
    """The path of the lock. It is not beside the span file, where it would stay and puzzle people."""
    return Path(gettempdir()) / f"potluck-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.lock"


def part_path(path: Path) -> Path:
    """The path of the span file as long as it is not finished."""
    return path.with_name(path.name + ".part")


def finished_path(path: Path) -> Path:
    """The path of the list of finished conversions beside an unfinished span file."""
    return path.with_name(path.name + ".part.finished")


def _write(path: Path, header: Header, pieces: list[Piece], source: Source, progress: Progress) -> None:
    if path.exists():
        if os.access(path, os.W_OK):
            path.touch()  # so that no other node of this machine removes it
        progress(download_size(pieces))
        return
    part, finished = part_path(path), Finished(finished_path(path))
    _check_disk(part, pieces)
    start, alignment = _start(part, header, pieces)
    try:
        _fill(part, start, alignment, pieces, source, progress, finished)
    except (IntegrityError, Unusable):
        part.unlink()
        finished.forget()
        raise
    replace(part, path)
    finished.forget()


def _check_disk(part: Path, pieces: list[Piece]) -> None:
    """Raises ModelError unless the pieces fit on the disk beside what is already there."""
    there = part.stat().st_size if part.exists() else 0
    needed = file_size(pieces) - there
    free = shutil.disk_usage(part.parent).free
    if needed > free - _SPARE_DISK:
        raise ModelError(
            f"These layers need {needed >> 20:,} MiB in {part.parent}, but only {free >> 20:,} MiB are free there, "
            f"and {_SPARE_DISK >> 20} of them must stay free: make room, or serve fewer layers."
        )


def _fill(
    part: Path,
    start: int,
    alignment: int,
    pieces: list[Piece],
    source: Source,
    progress: Progress,
    finished: Finished,
) -> None:
    """Bring the pieces into the part file, one after the other from `start` on."""
    with part.open("r+b") as file:
        for piece in pieces:
            match piece.content:
                case Copied(tensor):
                    _copy(file, start, tensor, source, progress)
                case Converted():
                    _convert(file, start, piece, piece.content, source, progress, finished)
            start += -(-piece.nbytes // alignment) * alignment
        file.truncate(start)  # what was never written is a hole: zeros that take no space on disk


def _start(part: Path, header: Header, pieces: list[Piece]) -> tuple[int, int]:
    """Write the header, or keep a part file that begins with it. Returns where the data begins, and the alignment."""
    fresh = part.with_name(part.name + ".header")
    alignment = _write_header(fresh, header, pieces)
    head = fresh.read_bytes()
    head += b"\0" * (-len(head) % alignment)
    fresh.unlink()
    if not part.exists() or not _begins_with(part, head):
        part.write_bytes(head)
    return len(head), alignment


def _begins_with(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(head)) == head


def _write_header(path: Path, header: Header, pieces: list[Piece]) -> int:
    writer = GGUFWriter(path, header.architecture, endianess=GGUFEndian.LITTLE)
    for key, (kinds, value) in header.entries.items():
        if key == "general.architecture":
            continue  # the writer adds it
        kind = GGUFValueType[kinds[0]]
        writer.add_key_value(key, value, kind, GGUFValueType[kinds[-1]] if kind is GGUFValueType.ARRAY else None)
        if key == "general.alignment":
            writer.data_alignment = value
    for piece in pieces:
        # The writer takes NumPy's order, rows in bytes.
        shape = quant_shape_to_byte_shape(tuple(reversed(piece.shape)), piece.dtype)
        writer.add_tensor_info(piece.name, shape, np.dtype(np.uint8), piece.nbytes, raw_dtype=piece.dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return int(writer.data_alignment)


def _copy(file: IO[bytes], start: int, tensor: Tensor, source: Source, progress: Progress) -> None:
    """Bring the tensor's bytes to `start`. If some are already there, only the rest is fetched."""
    kept = True

    def fetch() -> str:
        nonlocal kept
        digest = hashlib.sha256()
        done = _rehash(file, start, tensor.nbytes, digest) if kept else 0
        kept = False  # if these bytes turn out wrong, the next try takes none of them
        progress(done)
        file.seek(start + done)
        for chunk in source.fetch(tensor, done):
            file.write(chunk)
            digest.update(chunk)
            progress(len(chunk))
            done += len(chunk)
        check_length(tensor, done)
        return digest.hexdigest()

    fetch_verified(tensor, source, fetch, progress)


def _rehash(file: IO[bytes], start: int, nbytes: int, digest: Any) -> int:
    """Feed the bytes of a piece that the file already has to the digest. Returns their number."""
    file.seek(start)
    done = 0
    while chunk := file.read(min(CHUNK, nbytes - done)):
        digest.update(chunk)
        done += len(chunk)
    return done


def _convert(
    file: IO[bytes],
    start: int,
    piece: Piece,
    content: Converted,
    source: Source,
    progress: Progress,
    finished: Finished,
) -> None:
    """Bring the converted tensor to `start`, unless an earlier run has finished it and it still verifies."""
    digest = hashlib.sha256()
    _rehash(file, start, piece.nbytes, digest)
    if finished.has(piece.name, content.tensors, digest.hexdigest()):
        progress(sum(tensor.nbytes for tensor in content.tensors))
        return
    arrays = (read_array(tensor, source, progress) for tensor in content.tensors)
    if content.floats:
        arrays = (to_float32(array, tensor.dtype) for array, tensor in zip(arrays, content.tensors, strict=True))
    values = content.arrange(*arrays)
    digest = hashlib.sha256()
    file.seek(start)
    for slab in _slabs(values, piece, content):
        file.write(slab)
        digest.update(slab)
    file.flush()
    finished.add(piece.name, content.tensors, digest.hexdigest())


def _slabs(values: Array, piece: Piece, content: Converted) -> Iterator[bytes]:
    """The piece's bytes, some rows at a time."""
    if values.shape != tuple(reversed(piece.shape)):
        raise Unusable(f"{piece.name} has the shape {values.shape}, not {tuple(reversed(piece.shape))}.")
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, _SLAB // rows.shape[1])
    for begin in range(0, len(rows), step):
        with np.errstate(over="ignore"):
            slab = quantize(to_float32(rows[begin : begin + step], content.dtype), piece.dtype)
        if slab.dtype == np.float16 and not np.isfinite(slab).all():
            raise Unusable(f"{piece.name} has values beyond the range of f16: choose bf16 or q8_0.")
        yield slab.tobytes()
