"""A small model's guesses are those of its whole text, whatever it was told, in whatever order, with whatever room."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest

from kit.text_engine import IDS, TextEngine, continued, next_token
from potluck.errors import WireError
from potluck.node.guessing import Guessing
from potluck.wire.guessing import Follow, Guessed, Leave


class Desk:
    """A small model that guesses, whose guesses are collected."""

    def __init__(self, engine: TextEngine | None = None) -> None:
        self.engine = engine or TextEngine()
        self.told: list[Guessed] = []
        self.now = 0.0
        self.guessing = Guessing(self.engine, IDS, self.told.append, lambda: self.now)  # type: ignore[arg-type]

    def follow(self, answer: int, number: int, position: int, tokens: list[int], until: int) -> None:
        self.guessing.take(Follow(answer, number, position, tokens, until))

    def run(self) -> None:
        while self.guessing.is_wanted:
            self.guessing.run()

    def guesses(self, answer: int, number: int) -> list[int]:
        return [one.token for one in self.told if (one.answer, one.number) == (answer, number)]


def test_it_guesses_what_the_whole_model_says_and_never_padding() -> None:
    desk = Desk()
    desk.follow(1, 1, 0, [5, 6, 7], 9)
    desk.run()
    assert desk.guesses(1, 1) == continued([5, 6, 7], 6)


def test_what_was_guessed_rightly_is_not_computed_again_but_told_again() -> None:
    desk = Desk()
    desk.follow(1, 1, 0, [5, 6, 7], 9)
    desk.run()
    right = continued([5, 6, 7], 6)
    before = len(desk.engine.batches)
    desk.follow(1, 2, 3, right[:2], 9)
    assert desk.guesses(1, 2) == right[2:]
    assert not desk.guessing.is_wanted
    desk.follow(1, 2, 9, [], 11)
    desk.run()
    assert desk.guesses(1, 2) == continued([5, 6, 7], 8)[2:]
    assert len(desk.engine.batches) == before + 2


@pytest.mark.parametrize("forgets", [True, False])
def test_another_token_than_the_guess_is_followed(forgets: bool) -> None:
    desk = Desk(TextEngine(forgets=forgets))
    desk.follow(1, 1, 0, [5, 6, 7], 9)
    desk.run()
    right = continued([5, 6, 7], 6)
    text = [5, 6, 7, right[0], (right[1] + 1) % IDS]
    desk.follow(1, 2, 3, text[3:], 10)
    desk.run()
    assert desk.guesses(1, 2) == continued(text, 5)
    assert sum(rows for batch in desk.engine.batches[6:] for rows in batch.values()) == (5 if forgets else 9)


def test_a_shorter_text_is_guessed_as_if_it_had_never_been_longer() -> None:
    desk = Desk()
    desk.follow(1, 1, 0, [5, 6, 7, 8], 5)
    desk.run()
    desk.follow(1, 2, 2, [9], 4)
    desk.run()
    assert desk.guesses(1, 2) == continued([5, 6, 9], 1)


def test_a_long_text_is_read_in_pieces_between_which_others_have_their_guesses() -> None:
    desk = Desk()
    long = list(range(40)) * 8
    desk.follow(1, 1, 0, long, len(long) + 1)
    desk.follow(2, 1, 0, [1], 8)
    desk.run()
    assert desk.guesses(1, 1) == continued(long, 1)
    assert desk.guesses(2, 1) == continued([1], 7)
    firsts = [next(iter(batch)) for batch in desk.engine.batches[:14]]
    assert firsts == [2, 1] * 7
    assert max(rows for batch in desk.engine.batches for rows in batch.values()) == 32


def test_pieces_are_small_where_reading_is_slow() -> None:
    desk = Desk()

    def pass_time() -> None:
        desk.now += 1.0

    desk.engine.after = pass_time
    desk.follow(1, 1, 0, list(range(40)) * 2, 81)
    desk.run()
    assert {rows for batch in desk.engine.batches for rows in batch.values()} == {8}


def test_several_answers_are_computed_together() -> None:
    desk = Desk()
    for answer in (1, 2, 3):
        desk.follow(answer, 1, 0, [answer], 4)
    desk.run()
    assert [dict(batch) for batch in desk.engine.batches] == [{1: 1, 2: 1, 3: 1}] * 3
    for answer in (1, 2, 3):
        assert desk.guesses(answer, 1) == continued([answer], 3)


ROOMS = [(2, 1000), (8, 40)]
"""Sessions and positions, of which one number is enough for two or for four answers."""


@pytest.mark.parametrize(("sessions", "positions"), ROOMS)
def test_what_has_not_gone_on_for_a_while_is_forgotten_and_read_again(sessions: int, positions: int) -> None:
    desk = Desk(TextEngine(sessions, positions))
    for number in (1, 2):
        for answer in range(1, 6):
            desk.now += 10
            text = [answer] * 9
            desk.follow(answer, number, 0, [*text, *continued(text, 3)][: 8 + number], 12)
            desk.run()
    for answer in range(1, 6):
        assert desk.guesses(answer, 1) == continued([answer] * 9, 3)
        assert desk.guesses(answer, 2) == continued([answer] * 9, 3)[1:]


@pytest.mark.parametrize(("sessions", "positions"), ROOMS)
def test_answers_that_do_not_fit_together_do_not_drive_each_other_out(sessions: int, positions: int) -> None:
    desk = Desk(TextEngine(sessions, positions))
    texts = {answer: [answer] * 9 for answer in range(1, 6)}
    for number in range(1, 20):
        for answer, text in texts.items():
            desk.follow(answer, number, 0, list(text), len(text) + 1)
        desk.run()
        desk.now += 0.1
    guessed = {answer: len(desk.guesses(answer, 19)) for answer in texts}
    assert sum(guessed.values()) in (2, 4)
    assert sum(rows for batch in desk.engine.batches for rows in batch.values()) < 4 * 9 + 4 * 20


def test_prompts_that_do_not_fit_together_are_read_all_the_same() -> None:
    desk = Desk(TextEngine(4, 100))
    desk.engine.after = lambda: setattr(desk, "now", desk.now + 0.01)
    desk.follow(1, 1, 0, [1] * 70, 71)
    desk.follow(2, 1, 0, [2] * 70, 71)
    desk.run()
    assert desk.guesses(1, 1) == continued([1] * 70, 1)
    assert desk.guesses(2, 1) == []
    desk.now += 10
    desk.follow(2, 2, 70, [3], 72)
    desk.run()
    assert desk.guesses(2, 2) == continued([*[2] * 70, 3], 1)


def test_an_answer_that_is_longer_than_all_room_is_given_up() -> None:
    desk = Desk(TextEngine(4, 20))
    desk.follow(1, 1, 0, [1] * 30, 31)
    desk.follow(2, 1, 0, [2], 4)
    desk.run()
    assert desk.guesses(1, 1) == []
    assert desk.guesses(2, 1) == continued([2], 3)


def test_an_answer_that_has_ended_is_forgotten() -> None:
    desk = Desk()
    desk.follow(1, 1, 0, [1, 2], 4)
    desk.run()
    desk.guessing.take(Leave(1))
    desk.guessing.take(Leave(7))
    assert not desk.engine.held
    desk.follow(1, 1, 0, [3], 3)
    desk.run()
    assert desk.guesses(1, 1)[2:] == continued([3], 2)


def test_an_answer_cannot_go_on_where_it_has_not_come_to() -> None:
    desk = Desk()
    desk.follow(1, 1, 0, [], 8)
    assert not desk.guessing.is_wanted
    with pytest.raises(WireError, match="An answer of 0 tokens cannot go on at 3"):
        desk.follow(1, 1, 3, [1], 8)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_it_is_told_its_guesses_are_those_of_the_text(seed: int) -> None:
    """The side that asks is played here as simply as can be: it takes in what is told, and sometimes knows better."""
    chance = random.Random(seed)
    desk = Desk(TextEngine(3, 60, forgets=chance.random() < 0.8))
    texts: Mapping[int, list[int]] = {answer: [] for answer in range(1, 5)}
    numbers, seen = Counter[int](), 0
    for _ in range(200):
        if desk.guessing.is_wanted and chance.random() < 0.7:
            desk.guessing.run()
        for guessed in desk.told[seen:]:
            if guessed.number == numbers[guessed.answer]:
                text = texts[guessed.answer]
                assert guessed.token == next_token(text)
                text.append(guessed.token)
        seen = len(desk.told)
        answer = chance.randint(1, 4)
        desk.now += chance.random() * 3
        text = texts[answer]
        place = chance.randint(max(0, len(text) - 4), len(text))
        fresh = [chance.choice([chance.randrange(IDS), *text[place : place + 1]]) for _ in range(chance.randint(1, 3))]
        if len(text) > 40:
            desk.guessing.take(Leave(answer))
            text.clear()
            place = 0
        text[place:] = fresh
        numbers[answer] += 1
        desk.follow(answer, numbers[answer], place, fresh, len(text) + chance.randint(0, 5))
