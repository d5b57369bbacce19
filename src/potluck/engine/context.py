"""One llama.cpp context with a KV cache of a certain shape: sequences come and go as bytes, which have one form always.

llama.cpp writes a sequence's bytes as its cache is dealt. Here they are turned into those of a cache that all sessions
share, so that they fit into a cache of any shape, on any node.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from potluck.engine import cells
from potluck.engine.base import Rows
from potluck.engine.model_facts import ModelFacts
from potluck.engine.pool import Pool
from potluck.engine.slots import Shape
from potluck.engine.tap import Tap
from potluck.errors import EngineError
from potluck.llama.library import FLASH_ATTENTION, TYPE_F16, load
from potluck.types import Attention, Capacity

_BYTES = ctypes.POINTER(ctypes.c_uint8)


class Context:
    """A context of a loaded model for batches of `capacity.rows`. Raises EngineError when there is no memory for it."""

    def __init__(
        self,
        model: Any,
        facts: ModelFacts,
        tap: Tap,
        *,
        shape: Shape,
        capacity: Capacity,
        attention: Attention,
        threads: int,
        on_card: bool = False,
    ) -> None:
        self._library = load()
        params = self._library.llama_context_default_params()
        params.n_ctx = capacity.positions if shape.is_shared else shape.sessions * shape.cells
        params.n_ubatch = capacity.rows
        # Of a memory in another form, no part may be given to another sequence: llama.cpp may end the process.
        self._leftovers = shape.sessions if shape.is_shared and facts.form is not None else None
        params.n_seq_max = shape.sessions + (self._leftovers is not None)
        params.n_batch = max(capacity.rows, params.n_seq_max)  # or llama.cpp ends the process; no batch has more rows
        params.kv_unified = shape.is_shared
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION
        exact = attention is not Attention.FAST
        params.type_k = params.type_v = facts.exact_cache_type if exact else TYPE_F16
        params.no_perf = True
        params.offload_kqv = on_card
        # Otherwise llama.cpp would copy weights from memory to a card for large batches, for which no room is planned.
        params.op_offload = False
        params.cb_eval = tap.callback
        params.cb_eval_user_data = tap.user_data
        self._form = None if shape.is_shared else facts.form
        self._streams = shape.sessions
        self._handle = self._library.llama_init_from_model(model, params)
        if self._handle is None:
            raise EngineError(f"llama.cpp has no memory for {capacity.positions} positions.")
        positions, mine = self._library.llama_n_ctx(self._handle), self._library.llama_n_ctx_seq(self._handle)
        if mine * (1 if shape.is_shared else shape.sessions) != positions:
            raise EngineError(f"{self._library.files.name} did not take kv_unified: it is laid out in another way.")
        self._memory = self._library.llama_get_memory(self._handle)

    def use_threads(self, count: int) -> None:
        self._library.llama_set_n_threads(self._handle, count, count)

    def attach(self, pool: Pool) -> None:
        """Compute with the threads of this pool."""
        pool.attach(self._handle)

    def decode(self, batch: Any) -> int:
        """Run a batch. Returns llama.cpp's code, which is 0 if all went well."""
        return int(self._library.llama_decode(self._handle, batch))

    def logits(self, rows: int, vocabulary: int) -> Rows:
        """A copy `[rows, vocabulary]` of the latest batch's logits."""
        return np.ctypeslib.as_array(self._library.llama_get_logits(self._handle), shape=(rows, vocabulary)).copy()

    def save(self, sequence: int) -> bytes:
        """A sequence's keys and values."""
        state = np.empty(self._library.llama_state_seq_get_size(self._handle, sequence), np.uint8)
        pointer = state.ctypes.data_as(_BYTES)
        if self._library.llama_state_seq_get_data(self._handle, pointer, state.size, sequence) != state.size:
            raise EngineError("llama.cpp cannot save a session of its cache.")
        return state.tobytes() if self._form is None else cells.gathered(state.data, self._form)

    def put(self, sequence: int, state: bytes) -> bool:
        """Put keys and values into an empty sequence. False if llama.cpp refuses them."""
        if self._form is not None:
            state = cells.dealt(state, self._form, self._streams)
        pointer = ctypes.cast(ctypes.c_char_p(state), _BYTES)
        return bool(self._library.llama_state_seq_set_data(self._handle, pointer, len(state), sequence) == len(state))

    def forget(self, sequence: int, begin: int = 0) -> bool:
        """Forget a sequence's positions from `begin` on. False if llama.cpp cannot do that."""
        return bool(self._library.llama_memory_seq_rm(self._memory, sequence, begin, -1))

    @property
    def keeps_leftovers(self) -> bool:
        """Whether `cut` leaves no hole."""
        return self._leftovers is not None

    def cut(self, sequence: int, begin: int) -> bool:
        """Forget a sequence's positions from `begin` on, whose shared cells stay occupied, if possible, by a sequence
        that nobody uses. False if llama.cpp cannot do that.
        """
        if self._leftovers is not None:
            self._library.llama_memory_seq_cp(self._memory, sequence, self._leftovers, begin, -1)
        return self.forget(sequence, begin)

    def forget_all(self) -> None:
        self._library.llama_memory_clear(self._memory, False)

    def first_kept(self, sequence: int) -> int:
        """The first position of a sequence that is still there."""
        return int(self._library.llama_memory_seq_pos_min(self._memory, sequence))

    def close(self) -> None:
        """Give the memory back. Nothing may be called afterwards."""
        self._library.llama_free(self._handle)
