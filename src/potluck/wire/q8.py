"""Hidden rows in q8: int8 codes with a scale for each 32 of them, as in llama.cpp's Q8_0.

A row is its scales and then its codes; a value is its code times the scale of its block. If the width is no multiple of
32, the last block is shorter. Scales are bfloat16, which has the range of float32: some families exceed what a float16
scale could show.

A scale is at least 2**-126, which no machine takes for zero; what is too small for it becomes zero. Codes are -127 to
127, so that the largest number is still finite when it is read; -128 stands for nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]

BLOCK = 32
_SCALE_BYTES = 2
_LARGEST_CODE = 127
_LEAST_SCALE = 0x0080
"""The bits of 2**-126 in bfloat16, which are the upper half of those in float32."""

_LARGEST_SCALE = 0x7C01
"""The bits of the scale of float32's largest number. Those of infinity, NaN and negative numbers are greater."""

_INFINITY = 0x7F800000


def row_size(width: int) -> int:
    """The number of bytes of a row of `width` values."""
    return width + _SCALE_BYTES * -(-width // BLOCK)


def pack(rows: Rows) -> bytes:
    """Rows `[n, d]` as bytes. Each value changes by at most half the scale of its block."""
    width = rows.shape[1]
    largest = np.maximum.reduceat(np.abs(rows), np.arange(0, width, BLOCK), axis=1)
    # Rounded to the nearest bfloat16: a code still rounds to 127 at most. NaN becomes infinity, lest it wrap around.
    bits = np.minimum((largest / np.float32(_LARGEST_CODE)).view(np.uint32), np.uint32(_INFINITY))
    scales = np.maximum((bits + np.uint32(0x8000)) >> 16, _LEAST_SCALE).astype("<u2")
    with np.errstate(invalid="ignore"):  # a row that is not finite is refused by whoever reads it
        codes = np.rint(rows / _spread(scales, width)).astype(np.int8)
    return np.concatenate([scales.view(np.uint8), codes.view(np.uint8)], axis=1).tobytes()


def unpack(payload: memoryview, rows: int, width: int) -> Rows:
    """Bytes, which must be of the right size, as rows `[rows, width]`."""
    scales, codes = _parts(payload, rows, row_size(width))
    with np.errstate(over="ignore", invalid="ignore"):
        values: Rows = codes * _spread(scales, width)
    return values


def is_finite(payload: memoryview, rows: int) -> bool:
    """Whether all scales and codes of these rows, which must be of the right size, stand for finite numbers."""
    scales, codes = _parts(payload, rows, len(payload) // max(rows, 1))
    return not np.count_nonzero(scales > _LARGEST_SCALE) and not np.count_nonzero(codes == -_LARGEST_CODE - 1)


def _parts(payload: memoryview, rows: int, size: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int8]]:
    """The scales and the codes of these rows of `size` bytes."""
    end = _SCALE_BYTES * -(-size // (BLOCK + _SCALE_BYTES))
    table = np.frombuffer(payload, np.uint8).reshape(rows, size)
    return np.ascontiguousarray(table[:, :end]).view("<u2"), table[:, end:].view(np.int8)


def _spread(scales: npt.NDArray[np.uint16], width: int) -> Rows:
    """The scale of each value, `[n, width]`."""
    return np.repeat((scales.astype(np.uint32) << 16).view(np.float32), BLOCK, axis=1)[:, :width]
