"""The llama.cpp engine, which runs a span GGUF with the stock library through its C API.

A later span takes hidden rows through `llama_batch.embd`. An earlier span gives them through the scheduler's evaluation
callback: it asks for the output of a layer, copies it, and stops the graph before the unneeded head. Sessions are
llama.cpp sequences, so that one `llama_decode` serves many of them.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from potluck.engine import cells, openmp
from potluck.engine.base import Output, Progress, Segment, check_batch, ignore
from potluck.engine.context import Context
from potluck.engine.exclusive import claim_process
from potluck.engine.model_facts import ModelFacts
from potluck.engine.offloading import Placement
from potluck.engine.pool import Pool
from potluck.engine.session_cache import SessionCache
from potluck.engine.slots import Shape
from potluck.engine.tap import make_tap
from potluck.errors import CapacityError, EngineError
from potluck.llama.layouts import Batch, ProgressCallback
from potluck.llama.library import LOAD_COPY, LOAD_MAPPED, Llama, load
from potluck.types import NO_OFFLOAD, Attention, Capacity, Offload, Span

_NO_ROOM = 1  # llama_decode: no place in the KV cache for this batch; nothing was changed
_SAMPLE = -2
"""The number of the session that shows the layout of cells. The probe's is -1, and all others count from 1."""


def _telling(progress: Progress) -> Callable[[float, object], bool]:
    """llama.cpp's callback while it loads, called for every tensor. True lets it go on. Only each thousandth is passed
    on.
    """
    told = -1.0

    def tell(fraction: float, _user_data: object) -> bool:
        nonlocal told
        if fraction - told >= 0.001 or fraction >= 1.0:
            told = fraction
            progress(fraction)
        return True

    return tell


class LlamaCppEngine:
    """Implements `potluck.engine.base.Engine`.

    path: a span GGUF as `potluck.models.spanfile` writes it (or a whole model's, for the span of all layers).
    capacity: KV cells, sessions and rows of a batch to allocate for.
    offload: the part that lies on graphics cards. Such an engine promises no bits.
    extra_buffers: let llama.cpp repack weights for this CPU, which is three times faster where it works.
    """

    def __init__(
        self,
        path: Path,
        *,
        span: Span,
        layers: int,
        attention: Attention,
        capacity: Capacity,
        threads: int,
        extra_buffers: bool = True,
        offload: Offload = NO_OFFLOAD,
        progress: Progress = ignore,
    ) -> None:
        claim_process("llama.cpp")
        self._library = load()
        self.span = span
        self.layers = layers
        self.capacity = capacity
        self._offload = offload
        self._model = self._load(path, extra_buffers, progress)
        self._facts = ModelFacts(self._model)
        self.build = "" if self._facts.row.chunked or offload else _build(self._library, extra_buffers)
        self.hidden_size = self._facts.hidden_size
        self.vocabulary = self._facts.vocabulary
        self._tap = make_tap(capacity.rows * self.hidden_size)
        self._attention = attention
        self._threads = threads
        self._pool = None if self._library.has_openmp() else Pool(self._library)
        try:
            self._cache = SessionCache(self._facts, capacity, self._open)
        except EngineError:
            self._library.llama_model_free(self._model)  # less of the span may be tried on a card next
            raise
        self._cores: Sequence[int] = ()
        self._layout: cells.Layout | None = None
        self._allocate_batch()

    def _load(self, path: Path, extra_buffers: bool, progress: Progress) -> Any:
        params = self._library.llama_model_default_params()
        params.progress_callback = ProgressCallback(_telling(progress))
        params.use_extra_bufts = extra_buffers
        # Repacked weights are copies: with the file mapped as well, a node would hold its span twice.
        params.load_mode = LOAD_COPY if extra_buffers else LOAD_MAPPED
        placement = Placement(self._library, self._offload, len(self.span))
        placement.apply(params)
        model = self._library.llama_model_load_from_file(str(path).encode(), params)
        if model is None:
            raise EngineError(f"llama.cpp cannot load {path}.")
        return model

    def _open(self, shape: Shape) -> Context:
        context = Context(
            self._model,
            self._facts,
            self._tap,
            shape=shape,
            capacity=self.capacity,
            attention=self._attention,
            threads=self._threads,
            on_card=bool(self._offload),
        )
        if self._pool is not None:
            context.attach(self._pool)
        return context

    def _allocate_batch(self) -> None:
        """Allocate one llama_batch over NumPy arrays, which every forward fills in place."""
        rows = self.capacity.rows
        self._token = np.zeros(rows, np.int32)
        self._embd = np.zeros((rows, self.hidden_size), np.float32)
        self._pos = np.zeros(rows * self._facts.positions_per_row, np.int32)
        self._seq = np.zeros(rows, np.int32)
        self._counts = np.ones(rows, np.int32)
        self._flags = np.zeros(rows, np.int8)
        self._seq_pointers = self._seq.ctypes.data + 4 * np.arange(rows, dtype=np.uint64)
        batch = Batch()
        batch.pos = self._pos.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.seq_id = self._seq_pointers.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        batch.n_seq_id = self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        batch.logits = self._flags.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        if self.span.first == 0:
            batch.token = self._token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        else:
            batch.embd = self._embd.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            if self._facts.row.enters_at:
                self._tap.enter_at(self._facts.row.enters_at, self._embd)
        self._batch = batch

    def must_arrange(self, lengths: Mapping[int, int]) -> bool:
        return self._cache.must_arrange(lengths)

    def use_cores(self, cores: Sequence[int]) -> None:
        """Use these cores. The results do not depend on them."""
        if cores != self._cores:
            self._threads = len(cores)
            self._cache.context.use_threads(self._threads)
            self._take_threads(cores)
            self._cores = cores

    def _take_threads(self, cores: Sequence[int]) -> None:
        if self._pool is None:
            openmp.bind(cores)
            return
        self._pool.use(cores)
        self._cache.context.attach(self._pool)

    def rest(self) -> None:
        if self._pool is None:
            openmp.let_go()
        else:
            self._pool.rest()
        self._cores = ()

    def forward(self, batch: Sequence[Segment]) -> list[Output]:
        check_batch(self, batch)
        self._cache.table.begin_forward()
        done: dict[int, Output] = {}
        rows, seconds = [], []
        try:
            for group in self._placed(batch):
                begin = time.perf_counter()
                done |= zip((segment.session for segment in group), self._decode(group), strict=True)
                seconds.append(time.perf_counter() - begin)
                rows.append(sum(segment.rows for segment in group))
        except EngineError:
            self._take_back([segment for segment in batch if segment.session in done])
            raise
        self._cache.scatter.ran(rows, seconds, _kinds(batch))
        return [done[segment.session] for segment in batch]

    def _take_back(self, done: Sequence[Segment]) -> None:
        """After another group has failed, let the sessions of these segments be as they were, if they can."""
        if self._facts.is_recurrent:
            for segment in done:
                self.close(segment.session)
        else:
            self._cache.undo({segment.session: segment.position for segment in done})
        self._cache.drop_empty()

    def _placed(self, batch: Sequence[Segment]) -> list[Sequence[Segment]]:
        """The groups of the batch, after the cache was arranged anew if they do not fit, or lie too scattered."""
        lengths = {segment.session: segment.position + segment.rows for segment in batch}
        self._cache.make_room(lengths)
        groups = self._groups(batch)
        if len(groups) > _kinds(batch) and self._cache.lay_together(lengths):
            groups = self._groups(batch)
        return groups

    def _groups(self, batch: Sequence[Segment]) -> list[Sequence[Segment]]:
        """The segments that llama.cpp computes in one graph, of which the tap sees only the last.

        Slots go together if they have consecutive numbers and get equally many rows. Layers with a recurrent state take
        segments of one length together, and without attention beside them even only sequences with consecutive numbers,
        so that those come alone.
        """
        if self._facts.is_recurrent and not self._facts.has_attention:
            return [[segment] for segment in batch]
        if not (self._facts.is_recurrent or self._cache.has_slots):
            return [batch]
        lengths = dict.fromkeys(segment.rows for segment in batch)
        equal = [[segment for segment in batch if segment.rows == length] for length in lengths]
        if not self._cache.has_slots:
            return list(equal)
        return [run for group in equal for run in self._neighbours(group)]

    def _neighbours(self, batch: Sequence[Segment]) -> list[Sequence[Segment]]:
        """The segments in runs of slots that lie side by side."""
        slots = sorted((self._cache.sequence(segment.session), index) for index, segment in enumerate(batch))
        runs: list[list[Segment]] = []
        for number, (slot, index) in enumerate(slots):
            if not number or slot != slots[number - 1][0] + 1:
                runs.append([])
            runs[-1].append(batch[index])
        return list(runs)

    def _decode(self, batch: Sequence[Segment]) -> list[Output]:
        last = batch[0].last
        head = last == self.layers - 1
        rows = self._fill(batch, head)
        self._tap.watch(None if head else self._output(last))
        code = self._cache.context.decode(self._batch)
        if code == 0 and self._pool is not None:
            self._pool.ran()
        if code != 0:
            self._cache.undo({segment.session: segment.position for segment in batch})
            if code == _NO_ROOM:
                raise CapacityError(f"The KV cache has no room for {rows} more positions.")
            raise EngineError(f"llama_decode failed with code {code} on {rows} rows of layers {self.span}.")
        for segment in batch:
            self._cache.table.use(segment.session, segment.position + segment.rows)
        return self._logits(batch) if head else self._hidden(batch, rows)

    def _output(self, layer: int) -> str:
        """The graph node of this layer's output."""
        other = self._library.last_outputs.get(self._facts.architecture)
        if other is not None and layer == self.span.last:
            return other
        return f"{self._facts.row.leaves_at}-{layer - self.span.first}"

    def _fill(self, batch: Sequence[Segment], head: bool) -> int:
        """Lay the segments one after the other into the batch arrays. Returns the number of rows."""
        rows = 0
        for segment in batch:
            part = slice(rows, rows + segment.rows)
            if self.span.first == 0:
                self._token[part] = segment.data
            else:
                self._embd[part] = segment.data
            self._pos[part] = np.arange(segment.position, segment.position + segment.rows)
            self._seq[part] = self._cache.sequence(segment.session)
            # A tapped span flags every row: llama.cpp drops unflagged rows in its last layer.
            self._flags[part] = 0 if head else 1
            if head and segment.wanted:
                self._flags[part.stop - segment.wanted : part.stop] = 1
            rows += segment.rows
        if self._facts.positions_per_row > 1:  # of text, all parts of a position but the last are the same
            self._pos[rows : 3 * rows] = np.tile(self._pos[:rows], 2)
            self._pos[3 * rows : 4 * rows] = 0
        self._batch.n_tokens = rows
        return rows

    def _hidden(self, batch: Sequence[Segment], rows: int) -> list[Output]:
        hidden = self._tap.rows(rows, self.hidden_size)
        return _split(hidden, [segment.rows for segment in batch])

    def _logits(self, batch: Sequence[Segment]) -> list[Output]:
        counts = [segment.wanted for segment in batch]
        total = sum(counts)
        if not total:
            return [np.empty((0, self.vocabulary), np.float32) for _ in batch]
        return _split(self._cache.context.logits(total, self.vocabulary), counts)

    @property
    def sessions(self) -> int:
        return len(self._cache.table)

    def length(self, session: int) -> int:
        return self._cache.table.length(session)

    def truncate(self, session: int, length: int) -> None:
        self._cache.truncate(session, length)

    def close(self, session: int) -> None:
        self._cache.close(session)

    def export(self, session: int) -> bytes:
        return self._cache.export(session)

    def restore(self, session: int, state: bytes) -> None:
        self.close(session)
        self._cache.restore(session, state, self._own_layout)

    def _own_layout(self) -> cells.Layout:
        """The layout of this engine's cells, as a session of one row shows it."""
        if self._layout is None:
            first = self.span.first == 0
            row = np.zeros(1, np.int32) if first else np.zeros((1, self.hidden_size), np.float32)
            self.forward([Segment(_SAMPLE, 0, row, self.span.last)])
            try:
                self._layout = self._cache.layout(_SAMPLE)
            finally:
                self.close(_SAMPLE)
        return self._layout

    def unload(self) -> None:
        self._cache.context.close()
        if self._pool is not None:
            self._pool.close()
        self._library.llama_model_free(self._model)


def _split(rows: Output, counts: list[int]) -> list[Output]:
    return np.split(rows, np.cumsum(counts[:-1])) if len(counts) > 1 else [rows]


def _kinds(batch: Sequence[Segment]) -> int:
    """The number of different lengths of a batch's segments."""
    return len({segment.rows for segment in batch})


def _build(library: Llama, extra_buffers: bool) -> str:
    """The kernels, what they found this CPU to have, and the weight layout, which selects among them."""
    system = library.llama_print_system_info().decode()
    return f"{library.build} {system} {'optimised' if extra_buffers else 'plain'}"
