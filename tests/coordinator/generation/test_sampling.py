import math
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.generation.sampling import Bias, Lifted, Sampler, SamplingParams
from potluck.coordinator.relay.candidates import Candidates
from potluck.errors import WireError
from potluck.types import MAX_CANDIDATES


def candidates(chances: dict[int, float], normalizer: float = 0.0) -> Candidates:
    ids = np.array(list(chances), np.int32)
    return Candidates.checked(ids, np.log(np.array(list(chances.values()), np.float32)), 1000, normalizer)


def drawn(params: SamplingParams, row: Candidates, draws: int = 4000, prompt: tuple[int, ...] = ()) -> dict[int, float]:
    """The share of each token in many draws, with equal counts before each."""
    sampler = Sampler(params, prompt)
    counts = Counter(sampler.sample(row) for _ in range(draws))
    return {token: count / draws for token, count in counts.items()}


ROW = candidates({7: 0.5, 3: 0.3, 9: 0.15, 1: 0.05})


# Greedy


def test_greedy_takes_the_likeliest_and_the_lower_id_of_a_tie() -> None:
    assert Sampler(SamplingParams(temperature=0), []).sample(ROW) == 7
    assert Sampler(SamplingParams(temperature=0), []).sample(candidates({6: 0.5, 4: 0.5})) == 4


def test_a_very_low_temperature_is_greedy_without_overflow() -> None:
    assert drawn(SamplingParams(temperature=1e-30), ROW, draws=20) == {7: 1.0}
    assert drawn(SamplingParams(temperature=1e-4), ROW, draws=20) == {7: 1.0}


# Drawing


def test_tokens_are_drawn_by_their_probability() -> None:
    shares = drawn(SamplingParams(seed=1), ROW)
    assert shares == pytest.approx({7: 0.5, 3: 0.3, 9: 0.15, 1: 0.05}, abs=0.03)


def test_temperature_raises_probabilities_to_its_inverse() -> None:
    weights = {7: 0.5**2, 3: 0.3**2, 9: 0.15**2, 1: 0.05**2}
    expected = {token: weight / sum(weights.values()) for token, weight in weights.items()}
    assert drawn(SamplingParams(temperature=0.5, seed=1), ROW) == pytest.approx(expected, abs=0.03)


def test_top_k_keeps_the_k_likeliest() -> None:
    assert drawn(SamplingParams(top_k=2, seed=1), ROW) == pytest.approx({7: 5 / 8, 3: 3 / 8}, abs=0.03)


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    assert drawn(SamplingParams(top_p=0.6, seed=1), ROW).keys() == {7, 3}
    assert drawn(SamplingParams(top_p=0.4, seed=1), ROW).keys() == {7}
    assert drawn(SamplingParams(top_p=0, seed=1), ROW, draws=50).keys() == {7}


def test_top_p_counts_what_top_k_left() -> None:
    assert drawn(SamplingParams(top_k=2, top_p=0.6, seed=1), ROW, draws=200).keys() == {7}


def test_min_p_is_a_share_of_the_likeliest() -> None:
    assert drawn(SamplingParams(min_p=0.29, seed=1), ROW).keys() == {7, 3, 9}
    assert drawn(SamplingParams(min_p=1, seed=1), ROW, draws=50).keys() == {7}


def test_filters_come_after_the_temperature() -> None:
    # At temperature 0.5 the second token has 0.36 of the first one's chance, not 0.6.
    assert drawn(SamplingParams(temperature=0.5, min_p=0.5, seed=1), ROW, draws=200).keys() == {7}


def test_an_impossible_token_is_never_drawn() -> None:
    ids, logprobs = np.array([1, 2], np.int32), np.array([-math.inf, -5.0], np.float32)
    row = Candidates.checked(ids, logprobs, 10)
    for params in (SamplingParams(seed=1), SamplingParams(repetition_penalty=2.0, frequency_penalty=1.0, seed=1)):
        assert drawn(params, row, draws=50, prompt=(1, 2)) == {2: 1.0}


def test_equal_seeds_give_equal_draws_and_others_do_not() -> None:
    def sequence(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed), [])
        return [sampler.sample(ROW) for _ in range(64)]

    assert sequence(5) == sequence(5)
    assert sequence(-5) == sequence(-5)
    assert len({tuple(sequence(seed)) for seed in (5, 6, -5, None, None)}) == 5


def test_draws_do_not_change_from_release_to_release() -> None:
    sampler = Sampler(SamplingParams(seed=0), [])
    # PCG64(0) gives 0.64, 0.27, 0.04, 0.02, 0.81, 0.91, 0.61, 0.73.
    assert [sampler.sample(ROW) for _ in range(8)] == [3, 7, 7, 7, 9, 9, 3, 3]


# Bias and penalties


def test_bias_bans_and_forces() -> None:
    assert 7 not in drawn(SamplingParams(logit_bias={7: -100}, seed=1), ROW)
    assert drawn(SamplingParams(logit_bias={1: 100}, seed=1), ROW) == {1: 1.0}
    assert Sampler(SamplingParams(temperature=0, logit_bias={7: -100}), []).sample(ROW) == 3


def test_bias_is_added_to_the_logit() -> None:
    shares = drawn(SamplingParams(logit_bias={1: math.log(10)}, seed=1), ROW)
    assert shares == pytest.approx({7: 1 / 2.9, 3: 0.6 / 2.9, 9: 0.3 / 2.9, 1: 1 / 2.9}, abs=0.03)


def test_frequency_penalty_grows_with_each_time_and_presence_penalty_does_not() -> None:
    row = candidates({7: 0.6, 3: 0.4})  # ln(0.6 / 0.4) is 0.405

    def greedy_after(times: int, frequency_penalty: float = 0, presence_penalty: float = 0) -> int:
        params = SamplingParams(0, frequency_penalty=frequency_penalty, presence_penalty=presence_penalty)
        sampler = Sampler(params, [7, 7, 7])
        for _ in range(times):
            sampler.accept(7)
        return sampler.sample(row)

    assert [greedy_after(times, frequency_penalty=0.15) for times in range(4)] == [7, 7, 7, 3]
    assert [greedy_after(times, presence_penalty=0.4) for times in range(4)] == [7, 7, 7, 7]
    assert [greedy_after(times, presence_penalty=0.41) for times in range(4)] == [7, 3, 3, 3]


def test_repetition_penalty_divides_positive_logits_and_multiplies_negative_ones() -> None:
    # Logits 2 and 1.5: halving the first makes it the lower. As log-probabilities they are -0.47 and -0.97.
    normalizer = math.log(math.exp(2) + math.exp(1.5))
    row = candidates({7: math.exp(2 - normalizer), 3: math.exp(1.5 - normalizer)}, normalizer)
    assert Sampler(SamplingParams(temperature=0, repetition_penalty=1.3), [7]).sample(row) == 7
    assert Sampler(SamplingParams(temperature=0, repetition_penalty=1.4), [7]).sample(row) == 3
    # Logits -1 and -1.5: multiplied.
    negative = candidates({7: 0.62, 3: 0.38}, normalizer=math.log(0.62) * -1 - 1)
    assert Sampler(SamplingParams(temperature=0, repetition_penalty=1.4), [7]).sample(negative) == 7
    assert Sampler(SamplingParams(temperature=0, repetition_penalty=1.6), [7]).sample(negative) == 3


def test_repetition_penalty_counts_prompt_and_answer_once() -> None:
    row = candidates({7: 0.5, 3: 0.3}, normalizer=3.0)
    params = SamplingParams(temperature=0, repetition_penalty=1.5)
    answered = Sampler(params, [])
    assert answered.sample(row) == 7
    answered.accept(7)
    assert answered.sample(row) == 3
    both = Sampler(params, [7, 3])
    both.accept(7)
    assert both.sample(row) == 7


# Forbidden tokens


def test_a_forbidden_token_is_never_sampled() -> None:
    greedy = Sampler(SamplingParams(temperature=0), [])
    assert [greedy.sample(ROW, forbidden) for forbidden in ((), {7}, {7, 3}, {1, 3, 7, 100})] == [7, 3, 9, 9]
    hot = Sampler(SamplingParams(temperature=2, seed=1), [])
    assert {hot.sample(ROW, {7, 3}) for _ in range(200)} == {1, 9}


def test_a_forbidden_token_leaves_top_k_to_the_others() -> None:
    sampler = Sampler(SamplingParams(top_k=2, seed=1), [])
    assert {sampler.sample(ROW, {7}) for _ in range(200)} == {3, 9}


def test_no_bias_lifts_a_forbidden_token() -> None:
    assert Sampler(SamplingParams(temperature=0, logit_bias={7: 100}), []).sample(ROW, {7}) == 3


def test_candidates_that_are_all_forbidden_are_an_error() -> None:
    with pytest.raises(WireError):
        Sampler(SamplingParams(temperature=0), []).sample(ROW, {1, 3, 7, 9})


@pytest.mark.parametrize(
    ("params", "needed"),
    [
        (SamplingParams(temperature=0), 3),
        (SamplingParams(top_k=40), 42),
        (SamplingParams(), MAX_CANDIDATES),
    ],
)
def test_for_every_forbidden_token_one_more_is_needed(params: SamplingParams, needed: int) -> None:
    assert params.candidates_needed(forbidden=2) == needed


# What to ask the last stage for


@pytest.mark.parametrize(
    ("params", "top_logprobs", "needed"),
    [
        (SamplingParams(temperature=0), 0, 1),
        (SamplingParams(temperature=0), 20, 20),
        (SamplingParams(temperature=0, logit_bias={1: -5}), 0, MAX_CANDIDATES),
        (SamplingParams(temperature=0, frequency_penalty=0.1), 0, MAX_CANDIDATES),
        (SamplingParams(), 0, MAX_CANDIDATES),
        (SamplingParams(top_k=40), 5, 40),
        (SamplingParams(top_k=3), 5, 5),
        (SamplingParams(top_k=100_000), 0, MAX_CANDIDATES),
        (SamplingParams(top_k=40, repetition_penalty=1.1), 0, MAX_CANDIDATES),
    ],
)
def test_candidates_needed(params: SamplingParams, top_logprobs: int, needed: int) -> None:
    assert params.candidates_needed(top_logprobs) == needed


def test_only_tokens_that_may_rise_are_asked_for_by_name() -> None:
    def asked(params: SamplingParams) -> list[int]:
        lifted = Lifted(params, [50, 40])
        for token in (9, 8, 9):
            lifted.accept(token)
        return list(lifted.ids)

    assert asked(SamplingParams()) == []
    assert asked(SamplingParams(logit_bias={30: 5, 20: 1, 10: -1})) == [20, 30]
    assert asked(SamplingParams(frequency_penalty=1, presence_penalty=1, repetition_penalty=1.2)) == []
    assert asked(SamplingParams(frequency_penalty=-1, logit_bias={8: 1})) == [8, 9]
    assert asked(SamplingParams(presence_penalty=-1)) == [8, 9]
    assert asked(SamplingParams(repetition_penalty=0.9)) == [8, 9, 40, 50]


@given(st.lists(st.floats(-30, 30, width=32), min_size=300, max_size=400), st.integers(0, 399), st.floats(-100, 100))
def test_greedy_with_a_bias_is_the_argmax_of_the_whole_vocabulary(logits: list[float], token: int, bias: float) -> None:
    row = np.array(logits, np.float32)
    token %= len(row)
    params = SamplingParams(temperature=0, logit_bias={token: bias})
    sampler = Sampler(params, [])
    logprobs = (row - np.log(np.exp(row.astype(np.float64)).sum())).astype(np.float32)
    top = np.argsort(-logprobs, kind="stable")[: params.candidates_needed()].astype(np.int32)
    ids = np.union1d(top, np.array(Lifted(params, []).ids, np.int32))
    biased = logprobs.astype(np.float64)
    biased[token] += bias
    assert sampler.sample(Candidates.checked(ids, logprobs[ids], len(row))) == int(biased.argmax())


def test_token_ids_of_a_bias_may_be_the_strings_of_json() -> None:
    assert msgspec.json.decode('{"logit_bias": {"50256": -100}}', type=SamplingParams).logit_bias == {50256: -100}


@given(
    st.dictionaries(st.integers(0, 999), st.floats(-100, 100), max_size=30),
    st.lists(st.integers(0, 999), min_size=1, max_size=30, unique=True),
)
def test_a_bias_is_the_addend_of_each_token(addends: dict[int, float], ids: list[int]) -> None:
    bias = Bias(addends)
    assert bias.of(np.array(ids, np.int32)).tolist() == [addends.get(token, 0.0) for token in ids]
    assert bias.lifted == tuple(sorted(token for token, addend in addends.items() if addend > 0))
