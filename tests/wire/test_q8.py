import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from potluck.wire import q8
from potluck.wire.q8 import Rows

LARGEST = float(np.finfo(np.float32).max)
shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70)
any_rows = arrays(np.float32, shapes, elements=st.floats(width=32), fill=st.floats(width=32))
number = st.floats(-LARGEST, LARGEST, width=32)
finite_rows = arrays(np.float32, shapes, elements=number, fill=number)


def back(rows: Rows) -> Rows:
    return q8.unpack(memoryview(q8.pack(rows)), *rows.shape)


def payload(scale: int, *codes: int) -> memoryview:
    """A row of one block, whose scale has these bits."""
    return memoryview(np.array([scale], "<u2").tobytes() + np.array(codes, np.int8).tobytes())


def half_steps(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Half of the largest value over 127 of each value's block: as much as each value may change.

    Scales are rounded to eight bits, and none is less than 2**-126.
    """
    blocks = [rows[:, start : start + q8.BLOCK] for start in range(0, rows.shape[1], q8.BLOCK)]
    largest = [np.repeat(np.abs(block).max(axis=1, keepdims=True), block.shape[1], axis=1) for block in blocks]
    scales = np.concatenate(largest, axis=1) / 127 * (1 + 2.0**-8)
    return np.maximum(scales, 2.0**-126) / 2 * (1 + 2.0**-20)


@given(finite_rows)
def test_a_value_changes_by_at_most_half_a_step_of_its_block(rows: Rows) -> None:
    exact = rows.astype(np.float64)
    assert (np.abs(back(rows) - exact) <= half_steps(exact)).all()


@given(finite_rows)
def test_rows_of_finite_numbers_are_well_formed_and_finite_when_they_are_read(rows: Rows) -> None:
    packed = memoryview(q8.pack(rows))
    assert q8.is_finite(packed, len(rows))
    assert np.isfinite(q8.unpack(packed, *rows.shape)).all()


@given(finite_rows)
def test_what_was_read_is_packed_to_the_same_bytes(rows: Rows) -> None:
    assert q8.pack(back(rows)) == q8.pack(rows)


@given(finite_rows)
def test_a_row_has_the_same_bytes_in_any_company(rows: Rows) -> None:
    assert b"".join(q8.pack(row[None]) for row in rows) == q8.pack(rows)


@given(any_rows)
def test_a_row_that_is_not_finite_is_found(rows: Rows) -> None:
    assert q8.is_finite(memoryview(q8.pack(rows)), len(rows)) == np.isfinite(rows).all()


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
def test_infinity_and_every_nan_are_found_in_a_block_of_others(bits: int) -> None:
    rows = np.ones((1, 64), np.float32)
    rows.view(np.uint32)[0, 40] = bits
    assert not q8.is_finite(memoryview(q8.pack(rows)), 1)
    assert back(rows)[0, :32] == pytest.approx(1, rel=2**-8)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-40, 2.0**-128])
def test_zeros_and_what_is_next_to_nothing_become_zeros(value: float) -> None:
    assert (back(np.full((2, 40), value, np.float32)) == 0).all()


@pytest.mark.parametrize("value", [2.0**-119, 1.0, 65_504.0, 1e20, LARGEST])
def test_blocks_of_any_magnitude_keep_their_largest_value(value: float) -> None:
    rows = np.array([[value, -value, 0.0, value / 127 * 64]], np.float32)
    assert back(rows) == pytest.approx(rows, rel=2**-8)


def test_one_huge_value_costs_the_precision_of_its_block_only() -> None:
    rows = np.random.default_rng(0).uniform(-3, 3, (1, 128)).astype(np.float32)
    rows[0, 70] = 1e7
    got = back(rows)
    assert got[0, 70] == pytest.approx(1e7, rel=2**-8)
    others = np.r_[0:64, 96:128]
    assert got[0, others] == pytest.approx(rows[0, others], abs=3 / 127 / 2 * 1.01)
    assert (got[0, 64:96] != 0).sum() == 1


@pytest.mark.parametrize(("width", "size"), [(1, 3), (31, 33), (32, 34), (33, 37), (64, 68), (576, 612), (6144, 6528)])
def test_the_last_block_may_be_shorter(width: int, size: int) -> None:
    rows = np.linspace(-1, 1, 2 * width, dtype=np.float32).reshape(2, width)
    assert q8.row_size(width) == size
    assert len(q8.pack(rows)) == 2 * size
    assert back(rows) == pytest.approx(rows, abs=0.5 / 127 * 1.01)


def test_bytes_are_scales_and_then_codes() -> None:
    """1.0 is 0x3f80 as bfloat16, and 0.5 is 0x3f00."""
    row = np.array([[127.0, -3.0, *[0.0] * 30, 63.5, -0.5]], np.float32)
    assert q8.pack(row).hex() == "803f003f" + "7ffd" + "00" * 30 + "7fff"


@pytest.mark.parametrize(
    ("scale", "good"),
    [(0, True), (0x0080, True), (0x7C01, True), (0x7C02, False), (0x7F80, False), (0x7FC0, False), (0x8000, False)],
)
def test_scales_that_no_row_has_are_malformed(scale: int, good: bool) -> None:
    row = payload(scale, 127, -127, 3)
    assert q8.is_finite(row, 1) == good
    assert np.isfinite(q8.unpack(row, 1, 3)).all() or not good


def test_the_code_that_stands_for_nothing_is_malformed() -> None:
    assert q8.is_finite(payload(0x3F80, 5, -127), 1)
    assert not q8.is_finite(payload(0x3F80, 5, -128), 1)


@given(st.binary(min_size=2 * 37, max_size=2 * 37))
def test_any_bytes_of_the_right_size_are_rows(data: bytes) -> None:
    rows = q8.unpack(memoryview(data), 2, 33)
    assert rows.shape == (2, 33)
    assert rows.dtype == np.float32
