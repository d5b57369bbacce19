import math

import numpy as np
import pytest

from potluck.coordinator.relay.candidates import Candidates
from potluck.errors import WireError


def candidates(chances: dict[int, float], normalizer: float = 0.0) -> Candidates:
    ids = np.array(list(chances), np.int32)
    return Candidates.checked(ids, np.log(np.array(list(chances.values()), np.float32)), 1000, normalizer)


ROW = candidates({7: 0.5, 3: 0.3, 9: 0.15, 1: 0.05})


def test_candidates_are_sorted_and_ties_go_to_the_lower_id() -> None:
    row = candidates({5: 0.2, 9: 0.4, 2: 0.2, 8: 0.2})
    assert row.ids.tolist() == [9, 2, 5, 8]
    assert row.logprobs.dtype == np.float32
    assert len(row) == 4


def test_the_log_probability_of_a_candidate() -> None:
    assert ROW.logprob(3) == pytest.approx(math.log(0.3))
    with pytest.raises(KeyError):
        ROW.logprob(4)


def test_the_best_candidates_as_numbers_of_python() -> None:
    assert ROW.best(2) == ((7, ROW.logprob(7)), (3, ROW.logprob(3)))
    assert [type(number) for number in ROW.best(1)[0]] == [int, float]
    assert ROW.best(0) == ()
    assert len(ROW.best(20)) == 4


@pytest.mark.parametrize(
    ("ids", "logprobs", "reason"),
    [
        ([], [], "0 candidates"),
        ([1, 2], [-1.0], "2 candidates came with 1"),
        ([1, 1], [-1.0, -1.0], "different tokens"),
        ([-1], [-1.0], "different tokens"),
        ([10], [-1.0], "vocabulary of 10"),
        ([1], [math.nan], "not log-probabilities"),
        ([1, 2], [-1.0, math.nan], "not log-probabilities"),
        ([1], [-math.inf], "not log-probabilities"),
        ([1], [2.0], "not log-probabilities"),
    ],
)
def test_what_cannot_be_candidates_is_refused(ids: list[int], logprobs: list[float], reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        Candidates.checked(np.array(ids, np.int32), np.array(logprobs, np.float32), vocabulary=10)


def test_a_token_may_be_impossible_but_the_normalizer_may_not_be_infinite() -> None:
    ids, logprobs = np.array([1, 2], np.int32), np.array([-math.inf, 0.0], np.float32)
    assert Candidates.checked(ids, logprobs, 10).ids.tolist() == [2, 1]
    with pytest.raises(WireError):
        Candidates.checked(ids, logprobs, 10, normalizer=math.inf)


def test_only_some_tokens_keep_their_order_and_their_log_probabilities() -> None:
    some = ROW.only(np.array([3, 9, 50], np.int32))
    assert some.ids.tolist() == [token for token in ROW.ids.tolist() if token in (3, 9)]
    assert [some.logprob(token) for token in (3, 9)] == [ROW.logprob(token) for token in (3, 9)]
    assert len(ROW.only(np.array([50], np.int32))) == 0
