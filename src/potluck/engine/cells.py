"""Reads one llama.cpp sequence's cells from bytes strictly, because they may come from another machine.

`llama_state_seq_get_data` writes a unified cache with flash attention in little-endian 32-bit words: magic, sequence,
streams (1), cells; for each cell its position, 1, sequence; whether values are transposed (0), layers; then for keys
and after them for values, for each layer: type, bytes of a cell (64 bits), and the cells' bytes. llama.cpp reads such
bytes trustingly, so it is given only bytes whose frame is exactly the one that it would write itself.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from potluck.errors import EngineError

_HEAD = struct.Struct("<4I")
_COUNTS = struct.Struct("<2I")
_TENSOR = struct.Struct("<IQ")
_CELL_WORDS = 3
_SEQUENCES = 256
"""llama.cpp's own limit."""


class Layout(NamedTuple):
    """The part that does not depend on the session. tensors: type and bytes of a cell, for each layer's keys, then its
    values.
    """

    magic: int
    layers: int
    tensors: tuple[tuple[int, int], ...]


def read(state: bytes) -> tuple[Layout, int]:
    """The layout, and the number of positions, which begin at 0. Raises EngineError for bytes of any other kind."""
    try:
        return _read(state)
    except (struct.error, ValueError, OverflowError) as error:
        raise EngineError("These bytes are not the keys and values of one session.") from error


def _read(state: bytes) -> tuple[Layout, int]:
    magic, sequence, streams, cells = _HEAD.unpack_from(state)
    offset = _HEAD.size
    table = np.frombuffer(state, np.uint32, cells * _CELL_WORDS, offset).reshape(cells, _CELL_WORDS)
    offset += table.nbytes
    expected = np.stack([np.arange(cells), np.ones(cells), np.full(cells, sequence)], axis=1)
    transposed, layers = _COUNTS.unpack_from(state, offset)
    offset += _COUNTS.size
    if sequence >= _SEQUENCES or streams != 1 or transposed or not np.array_equal(table, expected):
        raise ValueError("cells out of order")
    tensors = []
    for _ in range(2 * layers):
        kind, width = _TENSOR.unpack_from(state, offset)
        offset += _TENSOR.size + width * cells
        tensors.append((kind, width))
    if offset != len(state):
        raise ValueError("bytes too few or too many")
    return Layout(magic, layers, tuple(tensors)), cells
