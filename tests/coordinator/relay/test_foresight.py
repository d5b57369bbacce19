import pytest

from potluck.coordinator.relay.foresight import Foresight, foresight, were_right
from potluck.coordinator.relay.trace import Hop
from potluck.types import Span


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
