import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.node.batching import SMALL_ROWS, Waiting, choose_batch

LIMIT = 64

queues = st.lists(
    st.builds(Waiting, session=st.integers(1, 5), rows=st.integers(1, LIMIT), last=st.sampled_from([4, 9])), min_size=1
)


@given(queues)
def test_a_batch_keeps_the_limit_and_takes_one_step_a_session(queue: list[Waiting]) -> None:
    chosen = [queue[index] for index in choose_batch(queue, LIMIT)]
    assert sum(step.rows for step in chosen) <= LIMIT
    assert len({step.session for step in chosen}) == len(chosen)
    assert len({step.last for step in chosen}) == 1


@given(queues)
def test_the_oldest_step_always_runs(queue: list[Waiting]) -> None:
    assert choose_batch(queue, LIMIT)[0] == 0


@given(queues)
def test_no_step_overtakes_an_older_one_of_its_session(queue: list[Waiting]) -> None:
    for index in choose_batch(queue, LIMIT):
        assert all(step.session != queue[index].session for step in queue[:index])


@given(queues)
def test_what_is_left_out_would_not_have_fitted(queue: list[Waiting]) -> None:
    chosen = choose_batch(queue, LIMIT)
    rows = sum(queue[index].rows for index in chosen)
    seen: set[int] = set()
    for index, step in enumerate(queue):
        ready = step.session not in seen and step.last == queue[0].last
        seen.add(step.session)
        if ready and index not in chosen:
            assert rows + step.rows > LIMIT


@given(queues)
def test_a_queue_is_done_after_as_many_batches_and_each_session_in_order(queue: list[Waiting]) -> None:
    left, done = list(enumerate(queue)), []
    for _ in range(len(queue)):
        if left:
            chosen = choose_batch([step for _, step in left], LIMIT)
            done += [left[index] for index in chosen]
            left = [item for index, item in enumerate(left) if index not in chosen]
    assert left == []
    for session in range(1, 6):
        order = [number for number, step in done if step.session == session]
        assert order == sorted(order)


@pytest.mark.parametrize(
    ("queue", "chosen"),
    [
        ([Waiting(1, 60, 9), Waiting(2, 60, 9), Waiting(3, 1, 9)], [0, 2]),
        ([Waiting(1, 1, 9), Waiting(2, 60, 9), Waiting(3, SMALL_ROWS, 9)], [0, 2]),
        ([Waiting(1, 1, 9), Waiting(1, 1, 9), Waiting(2, 1, 9)], [0, 2]),
        ([Waiting(1, 1, 4), Waiting(2, 1, 9), Waiting(3, 1, 4)], [0, 2]),
        ([Waiting(1, 64, 9), Waiting(2, 1, 9)], [0]),
    ],
)
def test_answers_go_before_prompts_but_for_the_oldest(queue: list[Waiting], chosen: list[int]) -> None:
    assert choose_batch(queue, LIMIT) == chosen
