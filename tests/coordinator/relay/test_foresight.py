import random
from collections import deque
from itertools import count

import numpy as np
import pytest

from potluck.coordinator.relay.foresight import Foresight, foresight, were_right
from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.relay.trace import Hop
from potluck.types import RowFormat, Span, Stage
from potluck.wire.messages import Hidden, Scores
from potluck.wire.rows import pack_scores

WIDTH = 4


def step(
    number: int,
    position: int,
    sent: float,
    *,
    rows: int = 1,
    guessed: bool = False,
    reached: int = 2,
    stages: int = 2,
    session: int = 1,
) -> list[Hop]:
    """A step that takes 0.1 s at each stage. reached: the stages that answered; at the next one it became void."""
    return [
        Hop(
            session,
            number,
            index,
            stages,
            f"n{index}",
            Span(index, index),
            rows,
            position,
            sent + 0.1 * index,
            sent + 0.1 * index + 0.1,
            0.0,
            0.0 if index == reached else 0.05,
            guessed,
            index == reached,
        )
        for index in range(min(reached + 1, stages))
    ]


def answer(session: int = 1) -> list[Hop]:
    """Two passes, three right guesses, and two guesses that became void: one at the first stage, one at the second."""
    return [
        *step(0, 0, 0.0, rows=16, session=session),
        *step(1, 16, 1.0, session=session),
        *step(2, 17, 1.05, guessed=True, session=session),
        *step(3, 18, 1.1, guessed=True, session=session),
        *step(4, 19, 1.15, guessed=True, session=session),
        *step(5, 20, 1.25, guessed=True, reached=1, session=session),
        *step(6, 21, 1.35, guessed=True, reached=0, session=session),
        *step(7, 20, 1.5, session=session),
    ]


def test_tokens_are_counted_by_pass_and_rows_by_token() -> None:
    found = foresight(answer())
    assert found is not None
    assert (found.fed, found.right, found.tokens, found.rows) == (5, 3, 2.5, 11 / 2 / 5)
    assert found.pass_s == pytest.approx(0.2)
    assert found.sentence == "60 % of 5 guesses were right: 2.5 tokens a pass of 200 ms, 1.1 rows a token."


def test_sessions_without_guesses_change_nothing() -> None:
    others = [hop for number in range(9) for hop in step(number, number, number, session=2)]
    assert foresight([*answer(), *others]) == foresight(answer())
    assert foresight(others) is None
    assert foresight([]) is None


def test_stages_are_counted_by_the_session() -> None:
    far = [*step(1, 0, 0.0, stages=4, reached=4, session=3), *step(2, 1, 0.1, stages=4, reached=4, session=3)]
    guessed = [*far, *step(3, 2, 0.2, guessed=True, stages=4, reached=4, session=3)]
    alone, both = foresight(guessed), foresight([*answer(), *guessed])
    assert alone is not None
    assert (alone.fed, alone.right, alone.tokens, alone.rows) == (1, 1, 1.5, 1.0)
    assert alone.pass_s == pytest.approx(0.4)
    assert both is not None
    assert both.rows == pytest.approx((5.5 + 3) / (5 + 3))


def test_where_no_pass_has_ended_only_the_share_is_told() -> None:
    right = foresight(step(4, 9, 1.0, guessed=True))
    assert right == Foresight(1, 1, None, None, None)
    assert right.sentence == "100 % of 1 guess was right."
    void = foresight([*step(4, 9, 1.0, guessed=True, reached=0), *step(5, 10, 1.1, guessed=True, reached=1)])
    assert void == Foresight(2, 0, None, None, None)
    assert void.sentence == "0 % of 2 guesses were right."


def test_a_guess_that_is_under_way_is_neither_right_nor_wrong() -> None:
    assert foresight(step(4, 9, 1.0, guessed=True)[:1]) is None


def test_shares_are_whole_percents() -> None:
    assert were_right(293, 412) == "71 % of 412 guesses were right"
    assert were_right(0, 1) == "0 % of 1 guess was right"
    assert were_right(1234, 1234) == "100 % of 1,234 guesses were right"


class Answer:
    """An answer whose tokens are guessed, through a real relay. Whatever can happen next happens by chance.

    The token that follows may be chosen long after the answer about it came: others come, and guesses are fed, until
    then. tokens: the positions of the answer.
    """

    def __init__(self, chance: random.Random, tokens: int) -> None:
        self.chance, self.tokens = chance, tokens
        self.fed = self.right = 0
        times = count()
        self.relay = Relay(WIDTH, 9, RowFormat.F32, clock=lambda: float(next(times)))
        self.relay.open(1, (Stage("a", Span(0, 0), ""), Stage("b", Span(1, 1), "")), 1)
        self.numbers = count()
        self.at: tuple[deque[Forward], ...] = (deque(), deque())
        self.under_way: deque[Forward] = deque()
        self.answered: set[int] = set()

    def run(self) -> None:
        self.feed(0, guessed=False)
        while self.under_way:
            self.chance.choice((self.guess, self.pass_on, self.end, self.choose))()

    def feed(self, position: int, *, guessed: bool) -> None:
        step = Forward(session=1, step=next(self.numbers), position=position, rows=1, asks=((),), guessed=guessed)
        self.relay.start(step, bytes(4))
        self.at[0].append(step)
        self.under_way.append(step)

    def guess(self) -> None:
        position = self.under_way[-1].position + 1
        if position < self.tokens and len(self.under_way) < 6:
            self.fed += 1
            self.feed(position, guessed=True)

    def pass_on(self) -> None:
        if self.at[0]:
            step = self.at[0].popleft()
            row = memoryview(bytes(4 * WIDTH))
            if self.relay.hidden("a", Hidden(1, 1, step.step, 1, 0.0, 0.0), row) is not None:
                self.at[1].append(step)

    def end(self) -> None:
        if self.at[1]:
            step = self.at[1].popleft()
            scores = pack_scores([(np.array([7], np.int32), np.array([-1.0], np.float32), 0.0)])
            if self.relay.scores("b", Scores(1, 1, step.step, (1,), 0.0, 0.0), memoryview(scores)) is not None:
                self.answered.add(step.step)

    def choose(self) -> None:
        """Choose the token that comes next, if it is known what is likely."""
        if self.under_way[0].step not in self.answered:
            return
        position = self.under_way.popleft().position + 1
        if self.under_way and self.chance.random() < 0.6:
            self.right += 1
            return
        self.under_way.clear()
        if position < self.tokens:
            self.feed(position, guessed=False)


@pytest.mark.parametrize("seed", range(20))
def test_the_trace_knows_what_became_of_each_guess(seed: int) -> None:
    answer = Answer(random.Random(seed), tokens=100)
    answer.run()
    found = foresight(answer.relay.trace.hops())
    assert found is not None
    assert (found.fed, found.right) == (answer.fed, answer.right)
    assert found.tokens == pytest.approx(100 / (100 - answer.right))
