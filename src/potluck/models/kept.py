"""What each layer keeps of a session: keys and values of its positions, or a state of one size, or both. Pure.

The engine opens llama.cpp with caches of full size (`swa_full`, its default), so that layers with sliding windows keep
all positions as the others do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from potluck.errors import ModelError
from potluck.models.architectures import TABLE, Metadata
from potluck.models.cutting import of_layers, recurrent_layers
from potluck.models.files import shown
from potluck.types import Attention

_BLOCK, _BLOCK_BYTES = 32, 34
"""The values that q8_0 packs in a block, and its bytes."""
_HALF_BYTES, FLOAT_BYTES = 2, 4
"""The bytes of a value in f16 or bf16, and in f32."""

_WITHOUT_CELLS = ("mamba", "mamba2")
"""The architectures that have no keys and values, whatever heads their files name."""
_WITH_BOTH = ("falcon-h1",)
"""The architectures whose layers all have keys and values as well as a state."""


class Kept(NamedTuple):
    """The bytes that a layer keeps. cell: for each position of a session. state: for each session, however long."""

    cell: int
    state: int = 0

    def of(self, positions: int) -> int:
        """The bytes for one session of so many positions."""
        return self.cell * positions + self.state


def kept(model: Metadata, attention: Attention = Attention.EXACT) -> tuple[Kept, ...]:
    """What each layer keeps with the llama.cpp engine; the most that it may keep where the table does not know it.

    Raises ModelError when the metadata cannot be true.
    """
    cells, state = _cells(model, attention), _state(model)
    if model.architecture in _WITHOUT_CELLS:
        return (Kept(0, state),) * model.layers
    if model.architecture in _WITH_BOTH or model.architecture not in TABLE:
        return tuple(Kept(cell, state) for cell in cells)
    layers = zip(recurrent_layers(model), cells, strict=True)
    return tuple(Kept(0, state) if is_recurrent else Kept(cell) for is_recurrent, cell in layers)


def _cells(model: Metadata, attention: Attention) -> list[int]:
    """The bytes of a position in each layer, if it has cells. A DSA indexer has one key more, for all heads."""
    heads = of_layers(model, "attention.head_count_kv", model.get("attention.head_count"))
    full, windowed = _head_sizes(model)
    in_blocks = attention is Attention.EXACT and all(size % _BLOCK == 0 for size in full + windowed)
    values = slice(0, 1) if model.get("attention.key_length_mla") else slice(0, 2)  # MLA reads values from its keys
    widths = {True: sum(windowed[values]), False: sum(full[values])}
    widest = max(widths.values())
    given = model.get("attention.sliding_window_pattern")
    windows = of_layers(model, "attention.sliding_window_pattern") if isinstance(given, list) else [None] * model.layers
    extra = count_of(model, "attention.indexer.key_length")
    counts = [count * widths.get(window, widest) + extra for count, window in zip(heads, windows, strict=True)]
    return [count // _BLOCK * _BLOCK_BYTES if in_blocks else count * _HALF_BYTES for count in counts]


def _head_sizes(model: Metadata) -> tuple[list[int], list[int]]:
    """The sizes of a key and of a value: in layers without, and in layers with a sliding window."""
    heads = of_layers(model, "attention.head_count", 0)[0]
    if not heads:  # then llama.cpp reads none of the keys
        return [0, 0], [0, 0]
    usual = count_of(model, "embedding_length") // heads
    key, value = (count_of(model, f"attention.{kind}_length", usual) for kind in ("key", "value"))
    return [key, value], [
        count_of(model, "attention.key_length_swa", key),
        count_of(model, "attention.value_length_swa", value),
    ]


def _state(model: Metadata) -> int:
    """The bytes of a session's state in a layer that has one; 0 for a model without such layers.

    They follow llama.cpp's `n_embd_r` and `n_embd_s`.
    """
    if length := count_of(model, "shortconv.l_cache"):
        return FLOAT_BYTES * count_of(model, "embedding_length") * (length - 1)
    inner, size = count_of(model, "ssm.inner_size"), count_of(model, "ssm.state_size")
    convolution = max(0, count_of(model, "ssm.conv_kernel") - 1)
    return FLOAT_BYTES * (convolution * (inner + 2 * count_of(model, "ssm.group_count") * size) + inner * size)


def count_of(model: Metadata, key: str, default: int = 0) -> int:
    """A number among the model's metadata. Raises ModelError when it is none, or below 0."""
    value: Any = model.get(key, default)
    if type(value) is not int or value < 0:
        raise ModelError(f"The model gives {shown(value)} as its {model.architecture}.{key}, which is not a number.")
    return value
