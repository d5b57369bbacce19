"""What the engine has to know of a model that llama.cpp has loaded: its attention, its positions, what it keeps."""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

from potluck.engine.cells import Form
from potluck.llama.library import ROPE_WITH_SECTIONS, TYPE_BF16, TYPE_Q8_0, load
from potluck.models.cutting import is_known, row_of

_BLOCK = 32
"""The values that q8_0 packs in a block."""


class ModelFacts:
    """The facts of one loaded model."""

    def __init__(self, model: Any) -> None:
        self._library = load()
        self._model = model
        self.architecture = self._value("general.architecture")
        self.hidden_size: int = self._library.llama_model_n_embd(model)
        self.vocabulary: int = self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(model))
        self.has_attention: bool = not self._library.llama_model_is_recurrent(model)
        self.is_recurrent: bool = not self.has_attention or self._library.llama_model_is_hybrid(model)
        """Whether some layers keep a state for each session, which cannot forget a part."""
        self.row = row_of(self.architecture)
        # Some models without windows have metadata for them.
        has_window = self.row.windows or not is_known(self.architecture)
        self.window: int = self._library.llama_model_n_swa(model) if has_window else 0
        """The positions of a sliding window; 0 if there is none."""

    def first_seen(self, position: int) -> int:
        """The first position that a layer with a sliding window sees from this one."""
        if not self.window:
            return position
        if self.row.windows is not None and self.row.windows.chunked:
            return position // self.window * self.window
        return max(0, position - self.window + 1)

    @cached_property
    def positions_per_row(self) -> int:
        """How many numbers llama.cpp takes for the position of a hidden row."""
        return 4 if self._library.llama_model_rope_type(self._model) in ROPE_WITH_SECTIONS else 1

    @property
    def exact_cache_type(self) -> int:
        """The type of a KV cache that gives the same bits for one row and for many.

        q8_0 is fast, but packs 32 values in a block; bf16 takes every head size.
        """
        return TYPE_Q8_0 if all(size % _BLOCK == 0 for size in self._head_sizes()) else TYPE_BF16

    @property
    def form(self) -> Form | None:
        """How llama.cpp writes the cells of a session; None for a memory that is not made of cells alone."""
        if not is_known(self.architecture) or self.is_recurrent or self._number("attention.indexer.head_count"):
            return None
        has_values = not self._number("attention.key_length_mla")
        return Form(
            2 if self.window else 1,
            has_places=self.positions_per_row > 1,
            has_values=has_values,
            counts=self._library.counts,
        )

    def _head_sizes(self) -> list[int]:
        """The sizes of keys and values, in layers with and without a sliding window."""
        heads = int(self._library.llama_model_n_head(self._model))
        usual = self.hidden_size // heads if heads else _BLOCK
        sizes = [self._number(f"attention.{kind}_length") or usual for kind in ("key", "value")]
        return sizes + [self._number(f"attention.{kind}_length_swa") or sizes[0] for kind in ("key", "value")]

    def _number(self, key: str) -> int:
        """A number among the metadata of the architecture; 0 if it is not there."""
        return int(self._value(f"{self.architecture}.{key}") or 0)

    def _value(self, key: str) -> str:
        text = ctypes.create_string_buffer(256)
        there = self._library.llama_model_meta_val_str(self._model, key.encode(), text, len(text)) >= 0
        return text.value.decode() if there else ""
