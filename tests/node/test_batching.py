import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.node.batching import Take, Waiting, choose_batch, fair_share, prompt_rows
from potluck.node.cost import Cost
from potluck.types import SMALL_ROWS, Speed

LIMIT = 64


def step(session: int, rows: int, last: int = 9) -> Waiting:
    return Waiting(session, rows, last, rows <= SMALL_ROWS)


queues = st.lists(
    st.builds(step, session=st.integers(1, 5), rows=st.integers(1, LIMIT), last=st.sampled_from([4, 9])), min_size=1
)
shares, prompts, turns = st.integers(1, 6), st.integers(1, 100), st.booleans()


@given(queues, shares, prompts, turns)
def test_a_batch_keeps_its_limits(queue: list[Waiting], share: int, prompt_rows: int, turn: bool) -> None:
    takes = choose_batch(queue, LIMIT, share=share, prompt_rows=prompt_rows, prompts_turn=turn)
    chosen = [queue[take.place] for take in takes]
    assert 1 <= sum(take.rows for take in takes) <= LIMIT
    assert len({one.session for one in chosen}) == len(chosen)
    assert len({one.last for one in chosen}) == 1
    [small] = {one.small for one in chosen}
    if small:
        assert len(chosen) <= share
        assert all(take.rows == one.rows for take, one in zip(takes, chosen, strict=True))
    else:
        assert sum(take.rows for take in takes) <= prompt_rows
        assert all(1 <= take.rows <= one.rows for take, one in zip(takes, chosen, strict=True))


@given(queues, shares, prompts, turns)
def test_of_its_kind_the_oldest_step_runs_and_none_overtakes_an_older_one_of_its_session(
    queue: list[Waiting], share: int, prompt_rows: int, turn: bool
) -> None:
    takes = choose_batch(queue, LIMIT, share=share, prompt_rows=prompt_rows, prompts_turn=turn)
    ready = [place for place, one in enumerate(queue) if one.session not in {old.session for old in queue[:place]}]
    kind = queue[takes[0].place].small
    assert takes[0].place == next(place for place in ready if queue[place].small is kind)
    assert all(take.place in ready for take in takes)


@given(queues, shares, prompts)
def test_nothing_waits_for_ever_and_each_session_runs_in_order(
    queue: list[Waiting], share: int, prompt_rows: int
) -> None:
    """However many newcomers generate, whatever was there at the beginning is done after so many batches."""
    left, done, turn, newcomer = list(enumerate(queue)), [], False, 100
    for _ in range(2 * sum(one.rows for one in queue) + 2 * len(queue)):
        left.append((newcomer, step(newcomer, 1)))
        newcomer += 1
        takes = choose_batch([one for _, one in left], LIMIT, share=share, prompt_rows=prompt_rows, prompts_turn=turn)
        turn = left[takes[0].place][1].small
        for place, rows in takes:
            number, one = left[place]
            left[place] = number, one._replace(rows=one.rows - rows)
        done += [number for number, one in left if not one.rows]
        left = [(number, one) for number, one in left if one.rows]
    assert set(range(len(queue))) <= set(done)
    for session in range(1, 6):
        order = [number for number in done if number < len(queue) and queue[number].session == session]
        assert order == sorted(order)


@pytest.mark.parametrize(
    ("queue", "turn", "takes"),
    [
        ([step(1, 60), step(2, 60), step(3, 1)], False, [Take(2, 1)]),
        ([step(1, 60), step(2, 60), step(3, 1)], True, [Take(0, 20)]),
        ([step(1, 17), step(2, 60), step(3, 1)], True, [Take(0, 17), Take(1, 3)]),
        ([step(1, 1), step(2, 1), step(3, SMALL_ROWS), step(4, 1)], True, [Take(0, 1), Take(1, 1), Take(2, 16)]),
        ([step(1, 1), step(1, 1), step(2, 1)], False, [Take(0, 1), Take(2, 1)]),
        ([step(1, 1, 4), step(2, 1, 9), step(3, 1, 4)], False, [Take(0, 1), Take(2, 1)]),
    ],
)
def test_tokens_and_prompts_take_turns(queue: list[Waiting], turn: bool, takes: list[Take]) -> None:
    assert choose_batch(queue, LIMIT, share=3, prompt_rows=20, prompts_turn=turn) == takes


@pytest.mark.parametrize(("generating", "stages", "share"), [(16, 2, 8), (5, 2, 3), (1, 3, 1), (0, 2, 1), (7, 1, 7)])
def test_every_stage_has_its_part_of_those_that_generate(generating: int, stages: int, share: int) -> None:
    assert fair_share(generating, stages) == share


@pytest.mark.parametrize(
    ("turn_s", "spare_s", "rows"), [(6.5, 0.0, 4), (6.5, 3.0, 7), (2.0, 0.0, 1), (0.0, 0.0, 1), (1000.0, 0.0, 998)]
)
def test_a_prompt_takes_as_many_rows_as_others_can_wait_for(turn_s: float, spare_s: float, rows: int) -> None:
    """A pass takes two seconds, and each row one."""
    prompts = Cost(Speed(decode_s=3.0, prefill_s=1 + 2 / LIMIT))
    assert prompt_rows(prompts, turn_s, spare_s) == rows
