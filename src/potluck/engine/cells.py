"""Reads one llama.cpp sequence's cells from bytes strictly, because they may come from another machine.

`llama_state_seq_get_data` writes a unified cache with flash attention in little-endian 32-bit words: magic, sequence;
then for each cache: streams (1), cells; for each cell its position, 1, perhaps its place and token, sequence; whether
values are transposed (0), layers, and in newer versions two words more that depend on the model; then for keys and
after them for values, for each layer: type, bytes of a cell (64 bits), and the cells' bytes. A model with sliding
windows has two caches, of which the second one holds only cells within the window. llama.cpp reads such bytes
trustingly, so it is given only bytes whose frame is exactly the one that it would write itself.

A cache that is dealt out in slots has a stream for each slot. Of its streams, only the sequence's own one has cells,
and in the place of every other one there is a 0. `gathered` leaves these out, and `dealt` puts them in.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from potluck.errors import EngineError

_HEAD = struct.Struct("<2I")
_CACHE = struct.Struct("<2I")
_TENSOR = struct.Struct("<IQ")
_CELL_WORDS = 3
_PLACE_WORDS = 2
_SEQUENCES = 256
"""llama.cpp's own limit."""
_WORD = struct.Struct("<I")
_ONE_STREAM = _WORD.pack(1)


class Form(NamedTuple):
    """What the model decides. caches: 1 or 2. has_places: whether a cell has a place in an image, and a token; those of
    text are its position, or 0. has_values: whether there are values beside the keys. counts: the words before the
    tensors, which depend on the version of llama.cpp.
    """

    caches: int
    has_places: bool
    has_values: bool
    counts: int


class Layout(NamedTuple):
    """The part that does not depend on the session. extra: the words after the number of layers, of each cache.
    tensors: type and bytes of a cell, for each layer's keys, then its values, of each cache.
    """

    magic: int
    extra: tuple[tuple[int, ...], ...]
    tensors: tuple[tuple[tuple[int, int], ...], ...]


def read(state: bytes, form: Form) -> tuple[Layout, int]:
    """The layout, and the number of positions, which begin at 0. Raises EngineError for bytes of any other kind."""
    try:
        magic, sequence = _HEAD.unpack_from(state)
        offset, length, extra, caches = _HEAD.size, 0, [], []
        for number in range(form.caches):
            words, tensors, end, offset = _read_cache(state, offset, sequence, form, is_window=number > 0)
            if number and end != length:
                raise ValueError("the caches end at different positions")
            length = end
            extra.append(words)
            caches.append(tensors)
        if offset != len(state) or sequence >= _SEQUENCES:
            raise ValueError("bytes too few or too many")
    except (struct.error, ValueError, OverflowError) as error:
        raise EngineError("These bytes are not the keys and values of one session.") from error
    return Layout(magic, tuple(extra), tuple(caches)), length


def gathered(state: memoryview, form: Form) -> bytes:
    """The bytes of a sequence in a cache with several streams, as a cache with one stream has them."""
    parts, offset = [state[: _HEAD.size]], _HEAD.size
    for _ in range(form.caches):
        [streams] = _WORD.unpack_from(state, offset)
        counts = np.frombuffer(state, np.uint32, streams, offset + _WORD.size)
        stream = int(np.flatnonzero(counts)[0])
        begin = offset + _WORD.size * (1 + stream)
        end = _end_of_stream(state, begin, form)
        parts += [memoryview(_ONE_STREAM), state[begin:end]]
        offset = end + _WORD.size * (streams - 1 - stream)
    return b"".join(parts)


def dealt(state: bytes, form: Form, streams: int) -> bytes:
    """The bytes of a sequence as a cache with so many streams has them. It is the reverse of `gathered`."""
    view = memoryview(state)
    parts, offset = [view[: _HEAD.size]], _HEAD.size
    for _ in range(form.caches):
        end = _end_of_stream(view, offset + _WORD.size, form)
        others = bytes(_WORD.size * (streams - 1))
        parts += [memoryview(_WORD.pack(streams)), view[offset + _WORD.size : end], memoryview(others)]
        offset = end
    return b"".join(parts)


def _end_of_stream(state: memoryview, offset: int, form: Form) -> int:
    """The offset at which the cells of a stream end, which begin with their number, as llama.cpp itself wrote them."""
    [cells] = _WORD.unpack_from(state, offset)
    offset += _WORD.size * (1 + cells * _words_of_cell(form))
    _, layers, *_ = _counts(state, offset, form)
    offset += form.counts * _WORD.size
    for _ in range(layers * (2 if form.has_values else 1)):
        offset += _TENSOR.size + _TENSOR.unpack_from(state, offset)[1] * cells
    return offset


def _counts(state: bytes | memoryview, offset: int, form: Form) -> tuple[int, ...]:
    """Whether values are transposed, the number of layers, and the words that newer versions have after them."""
    return struct.unpack_from(f"<{form.counts}I", state, offset)


def _words_of_cell(form: Form) -> int:
    return _CELL_WORDS + (_PLACE_WORDS + 1 if form.has_places else 0)


def _read_cache(
    state: bytes, offset: int, sequence: int, form: Form, *, is_window: bool
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...], int, int]:
    """The extra words and the tensors of one cache, the position after its last cell, and where its bytes end."""
    streams, cells = _CACHE.unpack_from(state, offset)
    offset += _CACHE.size
    width = _words_of_cell(form)
    table = np.frombuffer(state, np.uint32, cells * width, offset).reshape(cells, width)
    offset += table.nbytes
    first = int(table[0, 0]) if cells and is_window else 0
    expected = np.stack([first + np.arange(cells), np.ones(cells), np.full(cells, sequence)], axis=1)
    places = table[:, 2 : 2 + _PLACE_WORDS].T if form.has_places else ()
    transposed, layers, *extra = _counts(state, offset, form)
    offset += form.counts * _WORD.size
    if not all(np.array_equal(place, table[:, 0]) or not place.any() for place in places):
        raise ValueError("places of an image")
    if streams != 1 or not cells or transposed or not np.array_equal(table[:, [0, 1, -1]], expected):
        raise ValueError("cells out of order")
    tensors = []
    for _ in range(layers * (2 if form.has_values else 1)):
        kind, nbytes = _TENSOR.unpack_from(state, offset)
        offset += _TENSOR.size + nbytes * cells
        tensors.append((kind, nbytes))
    return tuple(extra), tuple(tensors), first + cells, offset
