"""Turns hidden rows, token ids and candidates into raw bytes, little-endian, and back.

f16 rows carry a power-of-two scale each, because some families exceed float16's 65,504: the payload is `rows` int8
exponents, then the rows. Rows in f32 and q8 stand one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from potluck.errors import WireError
from potluck.types import RowFormat
from potluck.wire import q8

Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]

_F16_LIMIT_EXPONENT = 15  # rows are scaled to below 2**15, half of what float16 can hold
_MIN_EXPONENT = -100  # below this a row is zeros for every purpose, and int8 could not hold its exponent


def payload_size(rows: int, width: int, form: RowFormat) -> int:
    """The number of bytes of `rows` hidden rows of `width` values."""
    match form:
        case RowFormat.F32:
            return rows * 4 * width
        case RowFormat.F16:
            return rows * (2 * width + 1)
        case RowFormat.Q8:
            return rows * q8.row_size(width)


def pack_rows(rows: Rows, form: RowFormat) -> bytes:
    """Hidden rows `[n, d]` as bytes; exact for f32."""
    match form:
        case RowFormat.F32:
            return np.ascontiguousarray(rows, "<f4").tobytes()
        case RowFormat.F16:
            return _pack_f16(rows)
        case RowFormat.Q8:
            return q8.pack(rows)


def _pack_f16(rows: Rows) -> bytes:
    largest = np.abs(rows).max(axis=1, initial=0.0)
    largest[~np.isfinite(largest)] = 0.0  # no scale helps such a row; it stays what it is
    exponents = np.frexp(largest)[1].astype(np.int32) - _F16_LIMIT_EXPONENT
    exponents = np.clip(exponents, _MIN_EXPONENT, 127).astype(np.int8)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ldexp(rows, -exponents.astype(np.int32)[:, None]).astype("<f2")
    return bytes(exponents.tobytes() + scaled.tobytes())


def unpack_rows(payload: memoryview, rows: int, width: int, form: RowFormat) -> Rows:
    """Bytes as hidden rows `[rows, width]`. Raises WireError when the size does not match."""
    if len(payload) != payload_size(rows, width, form):
        raise WireError(f"{len(payload)} bytes are not {rows} rows of {width} values in {form}.")
    match form:
        case RowFormat.F32:
            return np.frombuffer(payload, "<f4").reshape(rows, width)
        case RowFormat.F16:
            return _unpack_f16(payload, rows, width)
        case RowFormat.Q8:
            return q8.unpack(payload, rows, width)


def _unpack_f16(payload: memoryview, rows: int, width: int) -> Rows:
    exponents = np.frombuffer(payload[:rows], np.int8).astype(np.int32)
    scaled = np.frombuffer(payload[rows:], "<f2").astype(np.float32).reshape(rows, width)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ldexp(scaled, exponents[:, None])


_MOST_EXPONENT = 112
"""The largest exponent of a scale. With it, the largest f16 number, a little less than 2 ** 16, still fits into f32."""

_F16_EXPONENT = 0x7C00
"""The bits of a float16's exponent. All are set if it is not finite."""


def check_finite(payload: memoryview, rows: int, form: RowFormat) -> None:
    """Raises WireError unless all of these hidden rows, of the right size, consist of finite numbers."""
    # Counting is quicker than all(), and every token's row is looked at.
    match form:
        case RowFormat.F32:
            values = np.frombuffer(payload, "<f4")
            finite = np.count_nonzero(np.isfinite(values)) == values.size
        case RowFormat.F16:
            exponents, bits = np.frombuffer(payload[:rows], np.int8), np.frombuffer(payload[rows:], "<u2")
            wrong = np.count_nonzero((bits & _F16_EXPONENT) == _F16_EXPONENT)
            finite = not wrong and not np.count_nonzero(exponents > _MOST_EXPONENT)
        case RowFormat.Q8:
            finite = q8.is_finite(payload, rows)
    if not finite:
        raise WireError("Hidden rows hold values that are not finite numbers.")


def split_rows(payload: bytes | memoryview, rows: int, form: RowFormat) -> list[bytes]:
    """Split a payload of hidden rows, or of token ids as f32, into its rows. The size matches the number of rows."""
    view = memoryview(payload)
    if form is not RowFormat.F16:
        size = len(view) // rows
        return [bytes(view[size * row : size * (row + 1)]) for row in range(rows)]
    size = (len(view) - rows) // rows
    starts = range(rows, len(view), size)
    return [bytes(view[row : row + 1]) + view[start : start + size] for row, start in enumerate(starts)]


def join_rows(rows: Sequence[bytes], form: RowFormat) -> bytes:
    """Join rows into one payload, which is the reverse of `split_rows`."""
    if form is not RowFormat.F16:
        return b"".join(rows)
    return b"".join(row[:1] for row in rows) + b"".join(row[1:] for row in rows)


def pack_ids(ids: Ids) -> bytes:
    return np.ascontiguousarray(ids, "<i4").tobytes()


def unpack_ids(payload: memoryview, count: int) -> Ids:
    """Bytes as token ids `[count]`. Raises WireError when the size does not match."""
    if len(payload) != 4 * count:
        raise WireError(f"{len(payload)} bytes are not {count} token ids.")
    return np.frombuffer(payload, "<i4")


Scored = tuple[Ids, Rows, float]
"""The candidates of one row: ids `[m]`, log-probabilities `[m]`, and the row's log-sum-exp, which makes them logits."""


def pack_scores(rows: list[Scored]) -> bytes:
    """The candidates of each wanted row as bytes."""
    parts = [
        (np.array([total], "<f4"), np.asarray(ids, "<i4"), np.asarray(scores, "<f4")) for ids, scores, total in rows
    ]
    return b"".join(array.tobytes() for part in parts for array in part)


def split_scores(payload: bytes | memoryview, counts: Sequence[int]) -> list[bytes]:
    """Split a payload of candidates into its rows. The size matches the counts."""
    view, rows, start = memoryview(payload), [], 0
    for count in counts:
        end = start + 4 + 8 * count
        rows.append(bytes(view[start:end]))
        start = end
    return rows


def unpack_scores(payload: memoryview, counts: tuple[int, ...]) -> list[Scored]:
    """Bytes as candidates, which is the reverse of `pack_scores`. Raises WireError when the size does not match the
    counts.
    """
    if any(count < 0 for count in counts) or len(payload) != sum(4 + 8 * count for count in counts):
        raise WireError(f"{len(payload)} bytes are not the candidates of {len(counts)} rows.")
    rows, offset = [], 0
    for count in counts:
        total = np.frombuffer(payload, "<f4", 1, offset)
        ids = np.frombuffer(payload, "<i4", count, offset + 4)
        scores = np.frombuffer(payload, "<f4", count, offset + 4 + 4 * count)
        rows.append((ids, scores, float(total[0])))
        offset += 4 + 8 * count
    return rows
