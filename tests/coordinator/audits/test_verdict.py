import numpy as np
import pytest

from potluck.coordinator.audits.verdict import Judge, Tolerance, rows_error, scores_error
from potluck.coordinator.relay.evidence import Asked, Evidence
from potluck.types import RowFormat, Span, Stage
from potluck.wire.rows import Rows, Scored, pack_rows, pack_scores, split_rows

WIDTH = 8
STAGE = Stage("a", Span(2, 3))
TOLERANCE = Tolerance(hidden=0.1, logprob=0.5)


def packed(rows: Rows, form: RowFormat) -> tuple[bytes, ...]:
    return tuple(split_rows(pack_rows(rows, form), len(rows), form))


def hidden(rows: Rows, form: RowFormat = RowFormat.F32) -> Evidence:
    gave = packed(rows, form)
    return Evidence(1, STAGE, 3, gave, gave, (None,) * len(gave))


def scored(*pairs: tuple[int, float], total: float = 3.0) -> Scored:
    ids, scores = zip(*pairs, strict=True)
    return np.array(ids, np.int32), np.array(scores, np.float32), total


def candidates(row: Scored, top: int) -> tuple[Evidence, tuple[bytes | None, ...]]:
    answer = (None, pack_scores([row]))
    return Evidence(1, STAGE, 3, (b"", b""), answer, (None, Asked(top, ()))), answer


@pytest.fixture
def rows() -> Rows:
    return np.random.default_rng(0).standard_normal((5, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("form", RowFormat)
def test_between_twins_the_least_difference_is_too_much(rows: Rows, form: RowFormat) -> None:
    judge, other = Judge(WIDTH, form, TOLERANCE), rows.copy()
    evidence = hidden(rows, form)
    assert judge.agree(evidence, evidence.gave, packed(other, form), twins=True)
    other[3, 0] *= 1.02
    assert not judge.agree(evidence, evidence.gave, packed(other, form), twins=True)
    assert judge.agree(evidence, evidence.gave, packed(other, form), twins=False)


@pytest.mark.parametrize("form", RowFormat)
def test_between_others_the_worst_row_counts(rows: Rows, form: RowFormat) -> None:
    judge, other = Judge(WIDTH, form, TOLERANCE), rows.copy()
    evidence = hidden(rows, form)
    other[4] *= 1.2
    assert judge.difference(evidence, evidence.gave, packed(other, form)) == pytest.approx(0.2 / 1.2 / 0.1, rel=0.02)
    assert not judge.agree(evidence, evidence.gave, packed(other, form), twins=False)


@pytest.mark.parametrize("place", [0, 63, 64, 129])
def test_the_worst_of_many_rows_counts_wherever_it_is(place: int) -> None:
    rows = np.random.default_rng(1).standard_normal((130, WIDTH)).astype(np.float32)
    judge, gave, other = Judge(WIDTH, RowFormat.F32, TOLERANCE), packed(rows, RowFormat.F32), rows.copy()
    other[place] *= 1.2
    told = packed(other, RowFormat.F32)
    one, two = ((*answer[:70], None, *answer[71:]) for answer in (gave, told))
    evidence = Evidence(1, STAGE, 3, gave, one, (None,) * len(gave))
    assert judge.difference(evidence, one, two) == pytest.approx(0.2 / 1.2 / 0.1, rel=0.01)


def test_rows_of_nothing_differ_wholly_from_any(rows: Rows) -> None:
    assert rows_error(np.zeros_like(rows), rows) == pytest.approx(np.ones(5))
    assert rows_error(np.zeros_like(rows), np.zeros_like(rows)) == pytest.approx(np.zeros(5))


def test_candidates_agree_when_likely_tokens_are_about_as_likely() -> None:
    one = scored((4, -0.5), (2, -2.0), (7, -9.0))
    other = scored((4, -0.6), (2, -1.8), (7, -15.0), total=3.1)
    assert scores_error(one, other, 3) == pytest.approx(0.2)


def test_a_likely_token_must_not_be_left_out() -> None:
    one, other = scored((2, -2.0), (3, -2.5)), scored((4, -0.5), (2, -2.0), (3, -2.5))
    assert scores_error(one, other, 2) == pytest.approx(2.0)
    assert scores_error(other, one, 2) == pytest.approx(2.0)


def test_a_token_that_was_asked_for_does_not_widen_what_may_be_left_out() -> None:
    one, other = scored((2, -2.0), (9, -20.0)), scored((4, -0.5), (2, -2.0), (9, -20.0))
    assert scores_error(one, other, 1) == pytest.approx(1.5)


def test_near_ties_may_be_named_in_any_order() -> None:
    one, other = scored((2, -1.0)), scored((3, -1.0), (2, -1.1))
    assert scores_error(one, other, 1) == pytest.approx(0.1)


def test_fewer_tokens_than_wanted_are_wrong() -> None:
    one, other = scored((2, -1.0)), scored((2, -1.0), (3, -1.5))
    assert scores_error(one, other, 2) == np.inf


def test_the_sum_of_the_logits_counts_as_well() -> None:
    assert scores_error(scored((2, -1.0)), scored((2, -1.0), total=5.0), 1) == pytest.approx(2.0)


def test_a_token_that_cannot_come_and_is_likely_is_wrong() -> None:
    assert scores_error(scored((2, -1.0)), scored((2, -np.inf), (3, -0.1)), 1) == np.inf


def test_only_rows_that_were_asked_about_are_judged() -> None:
    judge = Judge(WIDTH, RowFormat.F32, TOLERANCE)
    evidence, answer = candidates(scored((2, -1.0)), 1)
    _, near = candidates(scored((2, -1.2)), 1)
    _, far = candidates(scored((2, -2.0), (5, -0.2)), 1)
    assert judge.agree(evidence, answer, answer, twins=True)
    assert judge.agree(evidence, answer, near, twins=False)
    assert not judge.agree(evidence, answer, near, twins=True)
    assert not judge.agree(evidence, answer, far, twins=False)
