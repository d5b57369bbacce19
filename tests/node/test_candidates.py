import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from potluck.node.candidates import best_candidates

values = st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, 1.0, -1.0]))
logits_of = st.integers(1, 40).flatmap(lambda size: arrays(np.float32, size, elements=values))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, list[int]]:
    logits = draw(logits_of)
    return logits, draw(st.integers(1, 50)), draw(st.lists(st.integers(0, len(logits) - 1), max_size=6))


@given(cases())
def test_they_are_the_best_of_the_full_log_softmax(case: tuple[np.ndarray, int, list[int]]) -> None:
    logits, top, asked = case
    exact = logits.astype(np.float64)
    total = float(np.log(np.exp(exact).sum()))
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    expected = sorted({*order[:top], *asked}, key=order.index)
    ids, scores, normalizer = best_candidates(logits, top, asked)
    assert ids.tolist() == expected
    assert (ids.dtype, scores.dtype) == (np.int32, np.float32)
    assert normalizer == pytest.approx(total, abs=1e-4)
    assert scores == pytest.approx(exact[expected] - total, abs=2e-4)


def test_equal_scores_go_to_the_lower_ids() -> None:
    logits = np.array([1, 3, 2, 3, 3, 2], np.float32)
    assert [best_candidates(logits, top, ())[0].tolist() for top in (1, 2, 3, 4, 9)] == [
        [1],
        [1, 3],
        [1, 3, 4],
        [1, 3, 4, 2],
        [1, 3, 4, 2, 5, 0],
    ]


def test_asked_ids_come_whatever_their_rank_and_once() -> None:
    ids, scores, _ = best_candidates(np.array([5, 4, 3, 2, 1], np.float32), 2, (4, 0, 4, 3))
    assert ids.tolist() == [0, 1, 3, 4]
    assert (np.diff(scores) < 0).all()


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_large_logits_do_not_overflow(shift: float) -> None:
    logits = np.array([0, 1, 2, 3], np.float32)
    ids, scores, total = best_candidates(logits + np.float32(shift), 4, ())
    assert ids.tolist() == [3, 2, 1, 0]
    assert scores == pytest.approx(best_candidates(logits, 4, ())[1], abs=1e-2)
    assert np.isfinite(total)


def test_tokens_that_cannot_come_score_minus_infinity() -> None:
    ids, scores, total = best_candidates(np.array([-np.inf, 0.0, -np.inf], np.float32), 2, ())
    assert ids.tolist() == [1, 0]
    assert scores.tolist() == [0.0, -np.inf]
    assert total == 0.0
