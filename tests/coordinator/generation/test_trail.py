"""What a small model is told of an answer, and which guesses count."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest

from kit.text_engine import IDS, TextEngine, continued
from potluck.coordinator.generation.trail import Trail
from potluck.node.guessing import Guessing
from potluck.wire.guessing import Follow, Guessed

PROMPT = [1, 2, 3]


def trail(context: int = 100, vocabulary: int = IDS) -> Trail:
    return Trail(7, context, vocabulary)


def test_the_prompt_is_said_once_and_then_only_what_is_new() -> None:
    one = trail()
    assert one.follow(PROMPT, 0) == Follow(7, 1, 0, PROMPT, 4)
    assert one.guess(3) is None
    assert one.follow(PROMPT, 0) is None
    assert one.follow([*PROMPT, 4], 1) == Follow(7, 2, 3, [4], 6)


def test_what_comes_as_it_was_guessed_needs_no_words() -> None:
    one = trail()
    one.follow(PROMPT, 2)
    for token in (10, 11, 12):
        one.take(Guessed(7, 1, token))
    assert one.guess(3) == 10
    assert one.follow([*PROMPT, 10], 1) is None
    assert one.guess(4) == 11
    assert one.follow([*PROMPT, 10, 11], 0) is None
    assert one.guess(5) == 12


def test_more_guesses_are_wanted_before_they_are_needed_but_not_more_than_are_under_way() -> None:
    one = trail()
    assert one.follow(PROMPT, 0) == Follow(7, 1, 0, PROMPT, 4)
    for token in range(10, 30):
        one.take(Guessed(7, 1, token))
    untils, tokens = [], [*PROMPT]
    for depth in range(12):
        message = one.follow(tokens, depth)
        untils.append(None if message is None else message.until - len(tokens))
        tokens.append(one.guess(len(tokens)) or 0)
    assert untils == [None, 2, 3, None, 5, None, 7, None, None, 9, None, None]


def test_guesses_about_another_turn_do_not_count() -> None:
    one = trail()
    one.follow(PROMPT, 0)
    one.take(Guessed(7, 1, 10))
    assert one.follow([*PROMPT, 20], 0) == Follow(7, 2, 3, [20], 5)
    one.take(Guessed(7, 1, 11))
    assert one.guess(4) is None
    one.take(Guessed(7, 2, 21))
    assert one.guess(4) == 21


def test_what_was_told_is_no_guess_when_it_is_taken_back() -> None:
    one = trail()
    one.follow([*PROMPT, 4, 5], 2)
    assert one.follow([*PROMPT, 4], 1) == Follow(7, 2, 4, [], 6)
    assert one.guess(4) is None


def test_an_answer_that_reaches_the_context_has_no_more_guesses() -> None:
    one = trail(context=5)
    assert one.can_follow(PROMPT, 0)
    assert one.follow(PROMPT, 3) == Follow(7, 1, 0, PROMPT, 5)
    assert one.follow(PROMPT, 3) is None
    assert one.can_follow([1, 2, 3, 4], 0)
    assert not one.can_follow([1, 2, 3, 4, 5], 0)


def test_a_token_that_the_small_model_does_not_have_ends_its_guesses() -> None:
    one = trail()
    assert not one.can_follow([*PROMPT, IDS], 1)
    assert one.can_follow([*PROMPT, IDS - 1], 1)  # the other one was a guess
    assert not one.can_follow([*PROMPT, IDS], 0)
    assert not one.can_follow(PROMPT, 0)


def test_a_small_model_that_has_begun_anew_is_told_everything() -> None:
    one = trail()
    one.follow([*PROMPT, 4], 0)
    one.take(Guessed(7, 1, 10))
    one.forget()
    assert one.follow([*PROMPT, 4], 0) == Follow(7, 1, 0, [*PROMPT, 4], 5)


@pytest.mark.parametrize("seed", range(40))
def test_every_guess_is_the_small_models_own_however_late_words_come(seed: int) -> None:
    """An answer goes on, partly as it was guessed and partly not, while what both sides say lies on its way."""
    chance = random.Random(seed)
    there: deque[Any] = deque()
    here: deque[Guessed] = deque()
    guessing = Guessing(TextEngine(2, 40), IDS, here.append, lambda: 0.0)  # type: ignore[arg-type]
    one, sure, tokens, right = trail(), 3, list(PROMPT), 0
    for _ in range(2000):
        if there and chance.random() < 0.5:
            guessing.take(there.popleft())
        if guessing.is_wanted and chance.random() < 0.5:
            guessing.run()
        if here and chance.random() < 0.5:
            one.take(here.popleft())
        if len(tokens) >= 36:
            break
        if (message := one.follow(tokens, len(tokens) - sure)) is not None:
            there.append(message)
        if (token := one.guess(len(tokens))) is not None:
            assert [token] == continued(tokens, 1)
            right += 1
            tokens.append(token)
        match chance.randrange(12):
            case 0 if sure < len(tokens):  # a guess was wrong
                tokens[sure:] = [chance.randrange(IDS)]
                sure += 1
            case 1 if sure < len(tokens):  # a guess was right
                sure += 1
            case 2:  # somebody else has guessed
                tokens.append(chance.randrange(IDS))
            case 3 if sure < len(tokens):
                tokens.pop()
    assert right > 5
