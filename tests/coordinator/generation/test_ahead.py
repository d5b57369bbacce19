"""What a session has under way, against a model of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.generation.ahead import Ahead
from potluck.coordinator.generation.guesses import Guess, Guessed
from potluck.coordinator.swarm.tally import Outcome, Source

TOKENS = st.integers(0, 2)


@given(st.lists(st.tuples(st.lists(TOKENS, max_size=4), TOKENS), max_size=30))
def test_guesses_are_under_way_until_another_token_comes(turns: list[tuple[list[int], int]]) -> None:
    guessed = Guessed()
    ahead: Ahead[int] = Ahead(guessed)
    known = [0]
    fed = dict[int, int]()
    answers = 0
    for guesses, token in turns:
        if ahead.first is None:
            ahead.feed(len(known) - 1, answers)
            fed[len(known) - 1] = known[-1]
            answers += 1
        for guess in guesses:
            position = len(known) + ahead.depth
            ahead.feed(position, answers, Guess(guess, Source.MODEL))
            fed[position] = guess
            answers += 1
        first = ahead.first
        assert first is not None
        assert first.position == len(known) - 1
        assert fed[first.position] == known[-1], "the answer that is awaited is to the tokens that are known"
        under_way = ahead.guesses
        void = ahead.know(token)
        known.append(token)
        right = under_way[:1] == [token]
        assert ahead.guesses == (under_way[1:] if right else [])
        assert [row.guess.token for row in void if row.guess] == ([] if right else under_way)
    fed_guesses = sum(len(guesses) for guesses, _ in turns)
    under_way = ahead.guesses
    ahead.clear()
    assert guessed.of(Outcome.RIGHT, Outcome.WRONG, Outcome.VOID) == fed_guesses
    assert ahead.first is None
    assert guessed.of(Outcome.VOID) >= len(under_way)


def test_a_token_that_does_not_follow_is_not_taken() -> None:
    ahead: Ahead[int] = Ahead(Guessed())
    ahead.feed(4, 0)
    with pytest.raises(ValueError, match="position 6 does not follow 4"):
        ahead.feed(6, 1)


def test_guesses_are_counted_by_their_source() -> None:
    guessed = Guessed()
    ahead: Ahead[int] = Ahead(guessed)
    ahead.feed(0, 0)
    for position, source in enumerate((Source.REPEAT, Source.GRAMMAR, Source.MODEL, Source.MODEL), 1):
        ahead.feed(position, position, Guess(position, source))
    ahead.know(1)
    ahead.know(7)
    assert guessed.counts == {
        (Source.REPEAT, Outcome.RIGHT): 1,
        (Source.GRAMMAR, Outcome.WRONG): 1,
        (Source.MODEL, Outcome.VOID): 2,
    }
    assert guessed.of(Outcome.VOID, source=Source.MODEL) == guessed.of(Outcome.VOID) == 2
