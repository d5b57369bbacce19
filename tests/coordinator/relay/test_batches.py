from collections.abc import Sequence

from potluck.coordinator.relay.batches import Batch, Fullness, batches, fullness, sentence
from potluck.coordinator.relay.trace import Hop
from potluck.types import Span


def hop(
    session: int,
    sent: float,
    received: float,
    compute_s: float,
    node: str = "a",
    rows: int = 1,
    stages: int = 2,
    *,
    guessed: bool = False,
    void: bool = False,
) -> Hop:
    """A hop whose times are given in tenths of a second."""
    index, span = (0, Span(0, 9)) if node == "a" else (1, Span(10, 19))
    sent, received, compute_s = sent / 10, received / 10, compute_s / 10
    return Hop(session, 0, index, stages, node, span, rows, 7, sent, received, 0.0, compute_s, guessed, void)


def rounds(groups: Sequence[Sequence[int]], count: int = 20, most: int = 16) -> list[Hop]:
    """Sessions that go round over two stages in two groups: while one is at the first, the other is at the second.

    most: the rows that the nodes compute in one pass.
    """
    hops = []
    for turn in range(count):
        for index, node in enumerate("ab"):
            group = groups[(turn + index) % 2]
            for first in range(0, len(group), most):
                end = turn + min(1.0, (first + most) / len(group))
                took = 0.05 + turn / 1000 + first / 100000
                hops += [hop(session, turn - 0.01, end, took, node) for session in group[first : first + most]]
    return sorted(hops, key=lambda one: one.received)


def steady(hops: Sequence[Hop]) -> set[tuple[int, int]]:
    """The rows and the shares of the first batches: sessions end among the last ones."""
    found = batches(hops)
    return {(one.rows, one.share) for one in found[: len(found) // 2]}


EIGHTS = (range(1, 9), range(9, 17))


def test_a_batch_is_what_a_node_computed_in_one_pass() -> None:
    whole = batches(rounds(EIGHTS))
    assert {(one.rows, one.share) for one in whole} == {(8, 8)}
    assert len(whole) == 40
    assert {one.sessions for one in whole} == {frozenset(EIGHTS[0]), frozenset(EIGHTS[1])}


def test_batches_that_fall_apart_are_told_from_whole_ones() -> None:
    assert steady(rounds(EIGHTS, most=4)) == {(4, 8)}
    assert steady(rounds(EIGHTS, most=1)) == {(1, 8)}


def test_a_stream_alone_is_a_full_batch() -> None:
    hops = [hop(1, moment, moment + 1, 0.5, node) for moment, node in enumerate("abababab")]
    assert {(one.rows, one.share) for one in batches(hops)} == {(1, 1)}


def test_an_odd_number_of_sessions_is_shared_upwards() -> None:
    assert steady(rounds((range(3), range(3, 5)))) == {(3, 3), (2, 3)}


def test_one_stage_could_run_all_together() -> None:
    hops = [hop(one, turn, turn + (one + 1) / 3, (1 + one) / 10, stages=1) for turn in range(9) for one in range(3)]
    assert steady(hops) == {(1, 3)}


def test_passes_that_took_equally_long_are_told_apart() -> None:
    after_another = [hop(1, 0.0, 1.0, 0.5), hop(2, 1.0, 2.0, 0.5)]
    elsewhere = [hop(1, 0.0, 1.0, 0.5, "a"), hop(2, 0.0, 1.0, 0.5, "b")]
    of_one_session = [hop(1, 0.0, 1.0, 0.5), hop(1, 0.0, 1.1, 0.5)]
    for hops in (after_another, elsewhere, of_one_session):
        assert [one.rows for one in batches(hops)] == [1, 1]
    assert [one.rows for one in batches([hop(1, 0.0, 1.0, 0.5), hop(2, 0.4, 1.2, 0.5)])] == [2]


def test_prompts_are_no_rows_of_a_batch() -> None:
    assert batches([hop(1, 0.0, 1.0, 0.5, rows=16), hop(2, 0.0, 1.0, 0.5)]) == [Batch(frozenset({2}), 1)]
    assert batches([hop(1, 0.0, 1.0, 0.5, rows=2)]) == []


def test_a_session_counts_while_it_generates() -> None:
    other = [hop(2, moment, moment + 1.0, 0.3, stages=1) for moment in (2.0, 3.0, 9.0)]
    alone = [hop(1, moment, moment + 1.0, 0.5, stages=1) for moment in range(10)]
    shares = [one.share for one in batches([*alone, *other]) if one.sessions == {1}]
    # It comes at 2.0, pauses from 4.0 to 9.0 and returns; a batch is chosen half a second after its step was sent.
    assert shares == [1, 1, 2, 2, 1, 1, 1, 1, 1, 2]


def ahead(session: int, count: int = 20) -> list[Hop]:
    """The rows of a session with several steps under way: a node computes one of them each tenth of a second."""
    return [
        hop(
            session,
            moment - 5 + index,
            moment + 1 + index,
            0.5 + moment / 1000 + index / 100,
            node,
            guessed=moment % 4 > 0,
        )
        for moment in range(count)
        for index, node in enumerate("ab")
    ]


def test_the_guesses_of_one_session_are_not_several_sessions() -> None:
    assert {(one.rows, one.share) for one in batches(sorted(ahead(1), key=lambda one: one.received))} == {(1, 1)}


def test_a_guess_shares_a_batch_with_the_token_of_another_session() -> None:
    both = sorted([*ahead(1), *ahead(2)], key=lambda one: one.received)
    assert [(one.sessions, one.share) for one in batches(both)] == [(frozenset({1, 2}), 2)] * 40


def test_void_steps_are_no_rows_of_a_batch() -> None:
    void = [hop(session, 0.0, 0.9, 0.0, guessed=True, void=True) for session in (1, 2, 3)]
    assert batches([*void, hop(1, 0.0, 1.0, 0.5)]) == [Batch(frozenset({1}), 1)]


def test_if_more_ran_together_they_could() -> None:
    assert batches([hop(1, 0.0, 1.0, 0.5), hop(2, 0.0, 1.0, 0.5)]) == [Batch(frozenset({1, 2}), 2)]


def test_the_times_of_liars_do_no_harm() -> None:
    for compute_s in (0.0, 5e-324, 1e300):
        found = batches([hop(session, 0.0, 1.0 + session, compute_s) for session in range(3)])
        assert sum(one.rows for one in found) == 3


def test_fullness_is_a_mean() -> None:
    assert fullness([]) is None
    found = [Batch(frozenset(range(8)), 8), Batch(frozenset({1}), 8), Batch(frozenset({1, 2, 3}), 4)]
    assert fullness(found) == Fullness(3, 4.0, 20 / 3)


def test_the_sentence_is_for_batches_that_could_be_large() -> None:
    assert sentence(Fullness(9, 7.44, 8.0)) == "A batch holds 7.4 rows of 8 that could run together."
    assert sentence(Fullness(9, 1.0, 7.96)) == "A batch holds 1 row of 8 that could run together."
    assert sentence(Fullness(9, 1.0, 1.0)) == ""
    assert sentence(None) == ""
