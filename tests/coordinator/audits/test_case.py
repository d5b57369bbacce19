from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.audits.case import Case, Convicted, Dropped, Holder, Outcome, Passed, Slipped, Undecided
from potluck.coordinator.relay.evidence import Answer, Evidence
from potluck.types import Span, Stage

A, B, C, D = (Holder(node, f"key {node}".encode(), "twin") for node in "abcd")
TRUE: Answer = (b"true",)


def lie(number: int = 0) -> Answer:
    return (f"lie {number}".encode(),)


def equal(_: Evidence, one: Answer, other: Answer, __: bool) -> bool:
    return one == other


def make_case(gave: Answer, audited: Holder = A) -> Case:
    return Case(Evidence(1, Stage(audited.node, Span(0, 1)), 3, (b"x",), gave, (None,)), audited, equal)


def play(case: Case, holders: Sequence[Holder], *answers: tuple[Holder, Answer | None]) -> Outcome | None:
    """Each of the answers must come from whom the case chooses."""
    outcome = None
    for expected, answer in answers:
        holder = case.choose(holders, lambda: 0.0)
        assert holder == expected
        outcome = case.failed(holder) if answer is None else case.answered(holder, answer)
    return outcome


def test_an_honest_node_passes() -> None:
    assert play(make_case(TRUE), [A, B, C], (B, TRUE)) == Passed()


def test_a_liar_that_lies_again_is_convicted() -> None:
    assert play(make_case(lie()), [A, B, C], (B, TRUE), (C, TRUE), (A, lie())) == Convicted(A)


def test_one_that_is_right_the_second_time_has_slipped() -> None:
    assert play(make_case(lie()), [A, B, C], (B, TRUE), (C, TRUE), (A, TRUE)) == Slipped(A)


def test_an_auditor_that_lies_is_convicted() -> None:
    assert play(make_case(TRUE), [A, B, C], (B, lie()), (C, TRUE), (B, lie(1))) == Convicted(B)


def test_a_suspect_that_cannot_or_is_gone_has_slipped() -> None:
    assert play(make_case(lie()), [A, B, C], (B, TRUE), (C, TRUE), (A, None)) == Slipped(A)
    case = make_case(lie())
    play(case, [A, B, C], (B, TRUE), (C, TRUE))
    assert case.choose([B, C, D], lambda: 0.0) is None
    assert case.nobody() == Slipped(A)


def test_where_all_differ_nobody_is_convicted() -> None:
    assert play(make_case(lie(0)), [A, B, C], (B, lie(1)), (C, TRUE)) == Undecided((A, B, C))


def test_two_alone_cannot_be_told_apart() -> None:
    case = make_case(TRUE)
    assert play(case, [A, B], (B, lie())) is None
    assert case.choose([A, B], lambda: 0.0) is None
    assert case.nobody() == Undecided((A, B))


@pytest.mark.parametrize("trusted", [A, B])
def test_of_two_the_trusted_ones_word_counts(trusted: Holder) -> None:
    a, b = (Holder(one.node, one.key, one.twin, trusted=one is trusted) for one in (A, B))
    wrong = b if trusted is A else a
    case = make_case(TRUE if wrong is b else lie(), a)
    play(case, [a, b], (b, lie() if wrong is b else TRUE))
    assert case.choose([a, b], lambda: 0.0) is None
    assert case.nobody() is None
    assert play(case, [a, b], (wrong, lie())) == Convicted(wrong)


def test_nobody_to_ask() -> None:
    case = make_case(TRUE)
    assert case.choose([A], lambda: 0.0) is None
    assert case.nobody() == Dropped()


def test_others_stand_in_for_those_that_cannot() -> None:
    assert play(make_case(TRUE), [A, B, C, D], (B, None), (C, TRUE)) == Passed()
    case = make_case(TRUE)
    play(case, [A, B], (B, None))
    assert case.choose([A, B], lambda: 0.0) is None


def test_trusted_nodes_are_asked_before_twins_and_these_before_others() -> None:
    stranger, trusted = Holder("s", b"key s", "other"), Holder("t", b"key t", "other", trusted=True)
    holders = [A, stranger, B, trusted, C]
    case = make_case(TRUE)
    assert case.choose(holders, lambda: 0.0) == trusted
    assert case.choose([A, stranger, B, C], lambda: 0.0) == B
    assert case.choose([A, stranger, B, C], lambda: 0.99) == C
    assert case.choose([A, stranger], lambda: 0.0) == stranger


def test_a_node_is_not_audited_by_one_of_the_same_key() -> None:
    other = Holder("e", A.key, "twin")
    assert make_case(TRUE).choose([A, other], lambda: 0.0) is None


@given(
    liar=st.sampled_from([A, B, C, D]),
    lies=st.lists(st.booleans(), min_size=8, max_size=8),
    fails=st.lists(st.booleans(), min_size=8, max_size=8),
    chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=8, max_size=8),
    holders=st.permutations([A, B, C, D]),
    count=st.integers(1, 4),
)
def test_while_one_lies_no_other_is_accused(
    liar: Holder, lies: list[bool], fails: list[bool], chances: list[float], holders: list[Holder], count: int
) -> None:
    def answer(holder: Holder) -> Answer:
        return lie(len(lies)) if holder == liar and lies.pop() else TRUE

    there = [A, *(holder for holder in holders if holder is not A)][:count]
    case, outcome = make_case(answer(A)), None
    while outcome is None:
        holder = case.choose(there, chances.pop)
        if holder is None:
            outcome = case.nobody()
        elif fails.pop():
            outcome = case.failed(holder)
        else:
            outcome = case.answered(holder, answer(holder))
    if isinstance(outcome, Convicted | Slipped):
        assert outcome.holder == liar
