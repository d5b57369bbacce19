"""Brings span files into the cache, within bounds, whatever spans and models a coordinator asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from potluck.errors import ModelError
from potluck.models.cache import Held, held_in, make_room, note_model, remove, tidy
from potluck.models.files import LocalSource, Progress, Source
from potluck.models.holds import Hold
from potluck.models.manifest import Manifest, Tensor
from potluck.models.sources import cache_folder
from potluck.models.spanfile import Header, Piece, file_size, part_path, write_span_file
from potluck.models.spans import copied_ranges, plan_raw_span, plan_span, span_file_name
from potluck.types import EngineKind, Quantize, Span

log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """The layers of a model as an engine loads them. quantize: for the llama.cpp engine only."""

    manifest: Manifest
    span: Span
    engine: EngineKind
    quantize: Quantize

    @property
    def path(self) -> Path:
        """The path of the span file on this machine."""
        quantize = self.quantize if self.engine is EngineKind.LLAMACPP else Quantize.NONE
        return cache_folder() / span_file_name(self.manifest, self.span, quantize)

    def plan(self) -> tuple[Header, list[Piece]]:
        """The header and the pieces of the span file. Raises ModelError when the engine cannot run the model."""
        if self.engine is EngineKind.LLAMACPP:
            return plan_span(self.manifest, self.span, self.quantize)
        return plan_raw_span(self.manifest, self.span)


class SpanCache:
    """The span files, finished or not, that this node has used since it started. Only the latest ones are kept.

    most: the number of files to keep. A file that another node of this machine uses, or has used since, belongs to that
    node. The latest file is in use until there is another one, or until the process ends.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed: dict[Path, int] = {}
        """When this node left each file, the latest last."""
        self._hold: Hold | None = None

    def fetch(self, wanted: Wanted, source: Source, progress: Progress) -> Path:
        """The span file, of which only what no other span file here holds is taken from the source.

        Raises ModelError when the bytes cannot be read or do not verify, or when there is no room for them.
        """
        path, (header, pieces) = wanted.path, wanted.plan()
        with self.using(path, file_size(pieces)), ExitStack() as holds:
            note_model(path.parent, wanted.manifest)
            others = _others(wanted)
            for held in others:
                holds.callback(Hold(held.path).release)
            try:
                write_span_file(path, header, pieces, _Reusing(source, _places(wanted, others)), progress)
            finally:
                tidy(path.parent)  # bytes that were never right leave nothing behind
        return path

    @contextmanager
    def using(self, path: Path, nbytes: int = 0) -> Iterator[None]:
        """Make room for the span file at this path, which is written in the block. nbytes: its size.

        Raises ModelError if the cache's limit leaves no room for it.
        """
        self.release()
        self._hold = Hold(path)
        self._changed.pop(path, None)
        while len(self._changed) >= self._most:
            oldest = next(iter(self._changed))
            _remove(oldest, self._changed.pop(oldest))
        for held in make_room(cache_folder(), nbytes, path):
            log.info("%s was removed to keep within the cache's limit.", held.path)
        try:
            yield
        finally:
            if (changed := _last_change(path)) is not None:
                self._changed[path] = changed

    def release(self) -> None:
        """Let the latest file go: whoever needs room may remove it."""
        if self._hold is not None:
            self._hold.release()
        self._hold = None


def _last_change(path: Path) -> int | None:
    found = [each.stat().st_mtime_ns for each in (path, part_path(path)) if each.exists()]
    return max(found, default=None)


def _remove(path: Path, changed: int) -> None:
    try:
        if not remove(path, lambda: _last_change(path) != changed):
            log.info("%s is kept, because another node uses it.", path)
    except ModelError as error:
        log.warning("%s", error)


# Layers that another span file holds already

_Places = dict[str, tuple[Path, int]]
"""The file and the offset of each tensor, by its SHA-256."""


def _others(wanted: Wanted) -> list[Held]:
    """The finished span files of the same model, in the same form, with some of the same layers."""
    path, span = wanted.path, wanted.span
    kind = path.stem.removeprefix(f"{span.first}-{span.last}").removeprefix("-")
    return [
        held
        for held in held_in(path.parent)
        if (held.kind, held.finished) == (kind, True) and held.path != path and _meet(held.span, span)
    ]


def _meet(one: Span, other: Span) -> bool:
    return one.first <= other.last and other.first <= one.last


def _places(wanted: Wanted, others: list[Held]) -> _Places:
    places: _Places = {}
    for held in others:
        try:
            _, pieces = wanted._replace(span=held.span).plan()
            for sha256, (offset, _) in copied_ranges(held.path, pieces).items():
                places[sha256] = held.path, offset
        except (ModelError, KeyError, OSError) as error:  # the file is of another version, or gone
            log.info("%s cannot be used again: %s.", held.path, error)
    return places


def missing_bytes(wanted: Wanted) -> int:
    """The bytes of the model that no span file here holds."""
    places = _places(wanted, _others(wanted))
    return sum(tensor.nbytes for piece in wanted.plan()[1] for tensor in piece.tensors if tensor.sha256 not in places)


class _Reusing(Source):
    """Takes tensors from span files of this machine, and all others from the source."""

    def __init__(self, source: Source, places: _Places) -> None:
        self._source = source
        self._places = places

    def fetch(self, tensor: Tensor, start: int = 0) -> Iterator[bytes]:
        if tensor.sha256 not in self._places:
            return self._source.fetch(tensor, start)
        path, offset = self._places[tensor.sha256]
        return LocalSource(path.parent).stream(path.name, offset + start, tensor.nbytes - start)

    def distrust(self, tensor: Tensor) -> None:
        if self._places.pop(tensor.sha256, None) is None:
            self._source.distrust(tensor)
