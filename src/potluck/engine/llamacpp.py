"""The llama.cpp engine, which runs a span GGUF with the stock library through its C API.

A later span takes hidden rows through `llama_batch.embd`. An earlier span gives them through the scheduler's evaluation
callback: it asks for the output of a layer, copies it, and stops the graph before the unneeded head. Sessions are
llama.cpp sequences, so that one `llama_decode` serves many of them.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np

from potluck.engine import cells, openmp
from potluck.engine.base import Output, Progress, Segment, check_batch, ignore
from potluck.engine.exclusive import claim_process
from potluck.engine.library import kernels_digest
from potluck.engine.model_facts import ModelFacts
from potluck.engine.session_table import SessionTable
from potluck.engine.tap import make_tap
from potluck.errors import CapacityError, EngineError
from potluck.types import Attention, Capacity, Span

log = logging.getLogger(__name__)

_IMMOVABLE = "This model's memory is of a kind that cannot be moved."
_NO_ROOM = 1  # llama_decode: no place in the KV cache for this batch; nothing was changed
_LOG_ERROR = 4
_SAMPLE = -2
"""The number of the session that shows the layout of cells. The probe's is -1, and all others count from 1."""


def _log(level: int, text: bytes, _user_data: object) -> None:
    if level == _LOG_ERROR:  # 5 is the continuation of a line, of any level
        log.warning("llama.cpp: %s", text.decode("utf-8", "replace").strip())


_LOG_CALLBACK = c.llama_log_callback(_log)  # kept: the library holds only its address


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


def start_library() -> None:
    """Initialise llama.cpp once in a process, and send its log messages to `logging`."""
    c.llama_log_set(_LOG_CALLBACK, ctypes.c_void_p(0))
    c.llama_backend_init()


class LlamaCppEngine:
    """Implements `potluck.engine.base.Engine`.

    path: a span GGUF as `potluck.models.spanfile` writes it (or a whole model's, for the span of all layers).
    capacity: KV cells, sessions and rows of a batch to allocate for.
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
        progress: Progress = ignore,
    ) -> None:
        claim_process("llama.cpp")
        start_library()
        self.span = span
        self.layers = layers
        self.capacity = capacity
        self._model = self._load(path, extra_buffers, progress)
        self._facts = ModelFacts(self._model)
        # A state is as large as it is however few positions it stands for: what is stored would have no bound.
        self._table: SessionTable[Any] = SessionTable(capacity, stores=not self._facts.is_recurrent)
        self.build = "" if self._facts.row.chunked else _build(extra_buffers)
        self.hidden_size = self._facts.hidden_size
        self.vocabulary = self._facts.vocabulary
        self._tap = make_tap(capacity.rows * self.hidden_size)
        self._context = self._open(attention, threads)
        self._memory = c.llama_get_memory(self._context)
        self._cores: Sequence[int] = ()
        self._layout: cells.Layout | None = None
        self._allocate_batch()

    def _load(self, path: Path, extra_buffers: bool, progress: Progress) -> Any:
        params = c.llama_model_default_params()
        params.progress_callback = c.llama_progress_callback(_telling(progress))
        params.use_extra_bufts = extra_buffers
        # Repacked weights are copies: with the file mapped as well, a node would hold its span twice.
        params.load_mode = c.LLAMA_LOAD_MODE_NONE if extra_buffers else c.LLAMA_LOAD_MODE_MMAP
        # All layers, and the head with them, go to a GPU where the build has one.
        params.n_gpu_layers = len(self.span) + 1 if c.llama_supports_gpu_offload() else 0
        model = c.llama_model_load_from_file(str(path).encode(), params)
        if model is None:
            raise EngineError(f"llama.cpp cannot load {path}.")
        return model

    def _open(self, attention: Attention, threads: int) -> Any:
        params = c.llama_context_default_params()
        params.n_ctx = self.capacity.positions
        params.n_batch = params.n_ubatch = self.capacity.rows
        params.n_seq_max = self.capacity.sessions
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_ENABLED
        exact = attention is not Attention.FAST
        params.type_k = params.type_v = self._facts.exact_cache_type if exact else c.GGML_TYPE_F16
        params.no_perf = True
        params.cb_eval = self._tap.callback
        params.cb_eval_user_data = self._tap.user_data
        context = c.llama_init_from_model(self._model, params)
        if context is None:
            raise EngineError(f"llama.cpp has no memory for {self.capacity.positions} positions of layers {self.span}.")
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
        batch: Any = c.llama_batch()  # the package types its fields as arrays, but they are pointers
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

    def use_cores(self, cores: Sequence[int]) -> None:
        """Use these cores. The results do not depend on them."""
        if cores != self._cores:
            c.llama_set_n_threads(self._context, len(cores), len(cores))
            openmp.bind(cores)
            self._cores = cores

    def rest(self) -> None:
        openmp.let_go()
        self._cores = ()

    def forward(self, batch: Sequence[Segment]) -> list[Output]:
        check_batch(self, batch)
        self._table.begin_forward()
        if self._table.must_compact({segment.session for segment in batch}, sum(segment.rows for segment in batch)):
            self._compact()
        done: dict[int, Output] = {}
        try:
            for group in self._groups(batch):
                done |= zip((segment.session for segment in group), self._decode(group), strict=True)
        except EngineError:
            for session in done:  # which cannot go back
                self.close(session)
            raise
        return [done[segment.session] for segment in batch]

    def _groups(self, batch: Sequence[Segment]) -> list[Sequence[Segment]]:
        """The segments that llama.cpp computes in one graph, of which the tap sees only the last.

        Layers with a recurrent state take segments of one length together, and without attention beside them even only
        sequences with consecutive numbers, so that those come alone.
        """
        if not self._facts.is_recurrent:
            return [batch]
        if not self._facts.has_attention:
            return [[segment] for segment in batch]
        lengths = dict.fromkeys(segment.rows for segment in batch)
        return [[segment for segment in batch if segment.rows == length] for length in lengths]

    def _decode(self, batch: Sequence[Segment]) -> list[Output]:
        last = batch[0].last
        head = last == self.layers - 1
        rows = self._fill(batch, head)
        self._tap.watch(None if head else f"{self._facts.row.leaves_at}-{last - self.span.first}")
        code = c.llama_decode(self._context, self._batch)
        if code != 0:
            self._undo(batch)
            if code == _NO_ROOM:
                raise CapacityError(f"The KV cache has no room for {rows} more positions.")
            raise EngineError(f"llama_decode failed with code {code} on {rows} rows of layers {self.span}.")
        for segment in batch:
            self._table.use(segment.session, segment.position + segment.rows)
        return self._logits(batch) if head else self._hidden(batch, rows)

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
            self._seq[part] = self._sequence(segment.session)
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

    def _sequence(self, session: int) -> int:
        """The session's sequence, with its cells in it."""
        sequence, state = self._table.place(session)
        if state is not None and not self._put(sequence, state):
            self._table.store(session, state)
            raise EngineError("llama.cpp cannot put a session back into its cache.")
        return sequence

    def _undo(self, batch: Sequence[Segment]) -> None:
        """Drop what a failed decode may have written, and sessions that it would have begun."""
        for segment in batch:
            if segment.position:
                sequence = self._table.sequence(segment.session)
                c.llama_memory_seq_rm(self._memory, sequence, segment.position, -1)
                self._table.use(segment.session)
            else:
                self._table.close(segment.session)
        self._compact()

    def _hidden(self, batch: Sequence[Segment], rows: int) -> list[Output]:
        hidden = self._tap.rows(rows, self.hidden_size)
        return _split(hidden, [segment.rows for segment in batch])

    def _logits(self, batch: Sequence[Segment]) -> list[Output]:
        counts = [segment.wanted for segment in batch]
        total = sum(counts)
        if not total:
            return [np.empty((0, self.vocabulary), np.float32) for _ in batch]
        pointer = c.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(pointer, shape=(total, self.vocabulary)).copy()
        return _split(logits, counts)

    @property
    def sessions(self) -> int:
        return len(self._table)

    def length(self, session: int) -> int:
        return self._table.length(session)

    def truncate(self, session: int, length: int) -> None:
        if length >= self.length(session):
            return
        if length == 0:
            self.close(session)
        elif self._forget_from(session, length):
            self._table.truncate(session, length)
            self._compact()
        else:
            raise EngineError("This model's memory cannot forget a part of a session.")

    def _forget_from(self, session: int, length: int) -> bool:
        if self._table.must_compact({session}, 0):
            self._compact()
        sequence = self._sequence(session)
        # What lies before the window is not saved, and so is gone when a session was moved.
        if self._facts.window and c.llama_memory_seq_pos_min(self._memory, sequence) > self._facts.first_seen(length):
            return False
        return bool(c.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def close(self, session: int) -> None:
        """Forget the session. Its cells stay occupied until they are many or are needed: see `_compact`."""
        self._table.close(session)
        if self._table.is_crowded():
            self._compact()

    def _compact(self) -> None:
        """Give back the cells of ended sessions, store idle ones, and lay those of the others one after the other.

        Moving a session's cells as a whole changes no bit of what follows.
        """
        if self._table.is_empty():
            return
        for session in self._table.idle():
            self._table.store(session, self._save(self._table.sequence(session)))
        kept = [(session, self._save(self._table.sequence(session))) for session in self._table.in_cache()]
        c.llama_memory_clear(self._memory, False)
        for session, state in kept:
            if not self._put(self._table.sequence(session), state):
                log.warning("llama.cpp lost session %d when it moved the sessions together.", session)
                self._table.close(session)
        self._table.compacted()

    def export(self, session: int) -> bytes:
        if session not in self._table:
            raise EngineError(f"Session {session} is not here.")
        stored = self._table.stored(session)
        state = bytes(stored if stored is not None else self._save(self._table.sequence(session)))
        if self._read(state)[1] != self.length(session):
            raise EngineError(_IMMOVABLE)
        return state

    def _read(self, state: bytes) -> tuple[cells.Layout, int]:
        if self._facts.form is None:
            raise EngineError(_IMMOVABLE)
        return cells.read(state, self._facts.form)

    def restore(self, session: int, state: bytes) -> None:
        self.close(session)
        layout, length = self._read(state)
        if layout != self._own_layout():
            raise EngineError("These keys and values belong to another span, or to another kind of cache.")
        if not self._table.fits(length):
            self._compact()
        if not self._table.fits(length):
            raise CapacityError(f"There is no room for one more session of {length} positions.")
        sequence, _ = self._table.place(session)
        if not self._put(sequence, (ctypes.c_uint8 * len(state)).from_buffer_copy(state)):
            self._table.close(session)
            raise EngineError("llama.cpp cannot put a session back into its cache.")
        self._table.use(session, length)

    def _own_layout(self) -> cells.Layout:
        """The layout of this engine's cells, as a session of one row shows it."""
        if self._layout is None:
            first = self.span.first == 0
            row = np.zeros(1, np.int32) if first else np.zeros((1, self.hidden_size), np.float32)
            self.forward([Segment(_SAMPLE, 0, row, self.span.last)])
            try:
                self._layout, _ = self._read(self.export(_SAMPLE))
            finally:
                self.close(_SAMPLE)
        return self._layout

    def _put(self, sequence: int, state: Any) -> bool:
        """Put a session's cells into an empty sequence. False if llama.cpp refuses them."""
        return bool(c.llama_state_seq_set_data(self._context, state, len(state), sequence) == len(state))

    def _save(self, sequence: int) -> Any:
        """The sequence's cells as bytes, in a ctypes array."""
        state = (ctypes.c_uint8 * c.llama_state_seq_get_size(self._context, sequence))()
        if c.llama_state_seq_get_data(self._context, state, len(state), sequence) != len(state):
            raise EngineError("llama.cpp cannot save a session of its cache.")
        return state

    def unload(self) -> None:
        c.llama_free(self._context)
        c.llama_model_free(self._model)


def _split(rows: Output, counts: list[int]) -> list[Output]:
    return np.split(rows, np.cumsum(counts[:-1])) if len(counts) > 1 else [rows]


def _build(extra_buffers: bool) -> str:
    """The kernels, what they found this CPU to have, and the weight layout, which selects among them."""
    system: bytes = c.llama_print_system_info()
    return f"{kernels_digest()} {system.decode()} {'optimised' if extra_buffers else 'plain'}"
