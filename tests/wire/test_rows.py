from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from potluck.errors import WireError
from potluck.types import RowFormat
from potluck.wire.rows import (
    Rows,
    check_finite,
    join_rows,
    pack_ids,
    pack_rows,
    pack_scores,
    payload_size,
    split_rows,
    unpack_ids,
    unpack_rows,
    unpack_scores,
)

shapes = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)
any_rows = arrays(np.float32, shapes, elements=st.floats(width=32))
finite_rows = arrays(np.float32, shapes, elements=st.floats(-(2.0**127), 2.0**127, width=32))
FORMS = list(RowFormat)


def back(rows: Rows, form: RowFormat) -> Rows:
    count, width = rows.shape
    return unpack_rows(memoryview(pack_rows(rows, form)), count, width, form)


@given(any_rows)
def test_f32_is_exact_to_the_bit(rows: Rows) -> None:
    assert back(rows, RowFormat.F32).tobytes() == rows.tobytes()


@given(finite_rows)
def test_f16_keeps_eleven_bits_of_what_its_row_can_show(rows: Rows) -> None:
    got = back(rows, RowFormat.F16).astype(np.float64)
    exact = rows.astype(np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True)
    # Half a step of float16: 2**-11 of a value, or 2**-39 of its row's largest; 2**-125 where the scale ends.
    allowed = np.maximum(np.abs(exact) * 2.0**-11, largest * 2.0**-38) + 2.0**-124
    assert np.isfinite(got).all()
    assert (np.abs(got - exact) <= allowed).all()


@pytest.mark.parametrize("value", [65_504.0, 65_505.0, 1e6, 1e20, 3.4e38, -3.4e38, 2.0**127])
def test_f16_carries_values_beyond_its_own_range(value: float) -> None:
    rows = np.array([[value, -value, 0.0], [1.0, 2.0, 3.0]], np.float32)
    got = back(rows, RowFormat.F16)
    assert np.allclose(got, rows, rtol=2**-11, atol=0)


@given(st.integers(-60, 100), arrays(np.int16, (3, 5), elements=st.integers(-1024, 1024)))
def test_f16_is_exact_for_eleven_bits_at_any_power_of_two(power: int, values: np.ndarray) -> None:
    rows = np.ldexp(values.astype(np.float32), power)
    assert (back(rows, RowFormat.F16) == rows).all()


def test_each_f16_row_has_its_own_scale() -> None:
    rows = np.array([[1e30, 1e30], [1e-20, -1e-20], [0.0, 0.0], [-0.0, 1.0]], np.float32)
    got = back(rows, RowFormat.F16)
    assert np.allclose(got, rows, rtol=2**-11, atol=0)
    assert (got[2] == 0).all()


def test_what_is_too_small_for_any_scale_becomes_zero() -> None:
    rows = np.array([[1e-45, -1e-45, 1e-40]], np.float32)
    assert (back(rows, RowFormat.F16) == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_are_not_contiguous_or_none_at_all(form: RowFormat) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert (back(rows.T, form) == back(rows.T.copy(), form)).all()
    assert (back(rows[::2, ::3], form) == back(rows[::2, ::3].copy(), form)).all()
    assert back(rows.T, form) == pytest.approx(rows.T, abs=0.1)
    assert back(np.zeros((0, 6), np.float32), form).shape == (0, 6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_harms_no_other(form: RowFormat, bad: float) -> None:
    rows = np.array([[bad, 1.0, 70_000.0], [1.0, 2.0, 127.0]], np.float32)
    got = back(rows, form)
    assert not np.isfinite(got[0]).all()
    assert (got[1] == rows[1]).all()


@given(finite_rows, st.sampled_from(FORMS))
def test_the_size_is_as_announced(rows: Rows, form: RowFormat) -> None:
    count, width = rows.shape
    assert len(pack_rows(rows, form)) == payload_size(count, width, form)


@given(finite_rows, st.sampled_from(FORMS))
def test_split_rows_are_those_that_were_packed_alone_and_can_be_joined(rows: Rows, form: RowFormat) -> None:
    payload = pack_rows(rows, form)
    split = split_rows(payload, len(rows), form)
    assert split == [pack_rows(row[None], form) for row in rows]
    assert join_rows(split, form) == payload


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("size", "rows"), [(0, 1), (-1, 2), (1, 2), (0, 3), (0, -1), (0, 2**62), (-11, 2)])
def test_a_payload_of_another_size_is_malformed(form: RowFormat, size: int, rows: int) -> None:
    payload = bytes(payload_size(2, 4, form) + size)
    with pytest.raises(WireError, match="rows of 4 values"):
        unpack_rows(memoryview(payload), rows, 4, form)


@given(st.binary(min_size=18, max_size=18))
def test_any_bytes_of_the_right_size_are_rows(payload: bytes) -> None:
    assert unpack_rows(memoryview(payload), 2, 4, RowFormat.F16).shape == (2, 4)


@given(arrays(np.int32, st.integers(0, 20)))
def test_ids_come_back(ids: np.ndarray) -> None:
    assert (unpack_ids(memoryview(pack_ids(ids)), len(ids)) == ids).all()


@pytest.mark.parametrize(("size", "count"), [(8, 1), (7, 2), (0, 1), (4, 0), (4, -1), (4, 2**62)])
def test_ids_of_another_size_are_malformed(size: int, count: int) -> None:
    with pytest.raises(WireError, match="token ids"):
        unpack_ids(memoryview(bytes(size)), count)


scored = st.integers(0, 5).flatmap(
    lambda count: st.tuples(arrays(np.int32, count), arrays(np.float32, count), st.floats(width=32, allow_nan=False))
)


@given(st.lists(scored, max_size=6))
def test_scores_come_back_to_the_bit(rows: list) -> None:
    got = unpack_scores(memoryview(pack_scores(rows)), tuple(len(ids) for ids, _, _ in rows))
    assert len(got) == len(rows)
    for (ids, scores, total), (ids_back, scores_back, total_back) in zip(rows, got, strict=True):
        assert (ids.tobytes(), scores.tobytes(), total) == (ids_back.tobytes(), scores_back.tobytes(), total_back)


@pytest.mark.parametrize(
    ("size", "counts"), [(4, ()), (0, (1,)), (11, (1,)), (13, (1,)), (4, (-1,)), (12, (2, -1)), (24, (2**62, 1))]
)
def test_scores_that_do_not_fit_their_counts_are_malformed(size: int, counts: tuple[int, ...]) -> None:
    with pytest.raises(WireError, match="are not the candidates"):
        unpack_scores(memoryview(bytes(size)), counts)


@pytest.mark.parametrize(("exponent", "good"), [(112, True), (113, False), (127, False), (-128, True)])
def test_a_scale_that_f32_cannot_hold_is_malformed(exponent: int, good: bool) -> None:
    payload = memoryview(np.array([exponent], np.int8).tobytes() + np.array([65504.0], "<f2").tobytes())
    with nullcontext() if good else pytest.raises(WireError):
        check_finite(payload, 1, RowFormat.F16)
    assert np.isfinite(unpack_rows(payload, 1, 1, RowFormat.F16)).all() == good


@pytest.mark.parametrize("width", [4, 10_000])
@pytest.mark.parametrize("form", list(RowFormat))
def test_one_number_that_is_not_finite_is_found_among_many_and_huge_ones_are_allowed(
    form: RowFormat, width: int
) -> None:
    rows = np.full((2, width), 1e38, np.float32)
    check_finite(memoryview(pack_rows(rows, form)), 2, form)
    for wrong in (np.inf, -np.inf, np.nan):
        rows[1, width - 2] = wrong
        payload = memoryview(pack_rows(rows, form))
        with pytest.raises(WireError, match="not finite"):
            check_finite(payload, 2, form)


@pytest.mark.parametrize("form", list(RowFormat))
def test_no_rows_hold_no_number_that_is_not_finite(form: RowFormat) -> None:
    check_finite(memoryview(b""), 0, form)
