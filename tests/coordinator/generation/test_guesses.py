"""Who guesses what comes next, and from what."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.generation.guesses import Copies, Guess, Guesses
from potluck.coordinator.swarm.tally import Source

TEXT = list(range(100, 130))


class Parrot:
    """A small model that always guesses the same token."""

    is_here = True

    def __init__(self, token: int | None) -> None:
        self.token = token
        self.closed = False

    async def guess(self, tokens: Sequence[int], ahead: int) -> int | None:
        return self.token

    def close(self) -> None:
        self.closed = True


def test_what_follows_the_same_tokens_is_expected_again() -> None:
    copies = Copies(3)
    copies.learn([1, 2, 3, 4, 5])
    assert [copies.guess(tokens) for tokens in ([1, 2, 3], [9, 2, 3, 4], [2, 3], [3, 4, 5], [])] == [
        4,
        5,
        None,
        None,
        None,
    ]


def test_a_text_is_followed_from_one_place_to_the_next() -> None:
    """Lines of code begin alike; the one that comes next in the text is meant."""
    copies = Copies(2)
    copies.learn([1, 2, 10, 1, 2, 20, 1, 2, 30])
    assert [copies.guess([1, 2]) for _ in range(4)] == [10, 20, 30, 30]


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 4), st.data())
def test_a_text_that_grows_is_known_like_one_that_is_read_at_once(
    text: list[int], least: int, data: st.DataObject
) -> None:
    grown, whole = Copies(least), Copies(least)
    for end in sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5))):
        grown.learn(text[:end])
    grown.learn(text)
    whole.learn(text)
    for end in range(len(text) + 1):
        assert grown.guess(text[:end]) == whole.guess(text[:end])


def test_a_prediction_is_followed_from_its_beginning() -> None:
    guesses = Guesses([1, 2, 3], TEXT)
    sequence = [1, 2, 3]
    for token in TEXT:
        assert guesses.copy(sequence[:3], sequence[3:], None) == Guess(token, Source.PREDICTION)
        sequence.append(token)
    assert guesses.copy(sequence, (), None) is None


def test_a_prediction_is_found_again_after_a_change() -> None:
    guesses = Guesses([1, 2, 3], TEXT)
    assert guesses.copy([1, 2, 3, 7, 8, *TEXT[10:12]], (), None) is None
    assert guesses.copy([1, 2, 3, 7, 8, *TEXT[10:13]], (), None) == Guess(TEXT[13], Source.PREDICTION)


def test_only_a_long_repeat_of_its_own_text_is_followed() -> None:
    prompt = [*TEXT, 5, 5]
    assert Guesses(prompt).copy([*prompt, *TEXT[:7]], (), None) is None
    assert Guesses(prompt).copy([*prompt, *TEXT[:8]], (), None) == Guess(TEXT[8], Source.REPEAT)


def test_guesses_that_may_be_wrong_are_no_text_to_repeat() -> None:
    guesses = Guesses(TEXT[:8])
    guessed = [*TEXT[:8], 1, *TEXT[:8]]
    assert guesses.copy(guessed[:8], guessed[8:], None) is None
    assert guesses.copy(guessed[:9], guessed[9:], None) == Guess(1, Source.REPEAT)


def test_a_grammar_forces_what_it_leaves_no_choice_about() -> None:
    guesses = Guesses([1, 2, 3])
    assert guesses.copy([1, 2, 3], (), np.array([9], np.int32)) == Guess(9, Source.GRAMMAR)
    assert guesses.copy([1, 2, 3], (), np.array([9, 10], np.int32)) is None


def test_nobody_guesses_what_the_grammar_forbids() -> None:
    guesses = Guesses([1, 2, 3], TEXT, Parrot(7))
    assert guesses.copy([1, 2, 3], (), np.array([5, 6], np.int32)) is None
    assert asyncio.run(guesses.ask([1, 2, 3], (), np.array([5, 6], np.int32))) is None
    assert asyncio.run(guesses.ask([1, 2, 3], (), np.array([5, 7], np.int32))) == Guess(7, Source.MODEL)


@pytest.mark.parametrize("token", [None, 4])
def test_the_small_model_is_asked_and_closed(token: int | None) -> None:
    model = Parrot(token)
    guesses = Guesses([1], (), model)
    assert asyncio.run(guesses.ask([1], (), None)) == (None if token is None else Guess(4, Source.MODEL))
    guesses.close()
    assert model.closed
