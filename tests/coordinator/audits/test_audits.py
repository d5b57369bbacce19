import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.audits import audits as module
from potluck.coordinator.audits.audits import Action, Audited, Audits, Forfeit, Quarantine, Record, Settle, Suspect
from potluck.coordinator.audits.case import Holder
from potluck.coordinator.relay.evidence import Answer, Evidence
from potluck.types import Span, Stage

A, B, C, D = (Holder(node, f"key {node}".encode(), "twin") for node in "abcd")
TRUE: Answer = (b"true",)
LIE: Answer = (b"lie",)


class Swarm:
    """Holders of one span; `answer` tells what each of them computes."""

    def __init__(self, holders: Sequence[Holder], answer: Callable[[Holder], Answer | None], seed: int = 0) -> None:
        self.holders = list(holders)
        self.answer = answer
        self.actions: list[Action] = []
        self.audits = Audits(0.02, lambda _, one, other, __: one == other, random.Random(seed).random)

    def audit(self, audited: Holder) -> None:
        """One session of this node is audited, and all that follows."""
        gave = self.answer(audited) or TRUE
        self.audits.collected(
            Evidence(1, Stage(audited.node, Span(0, 1)), 3, (b"x",) * len(gave), gave, (None,)), audited
        )
        while True:
            assignments, actions = self.audits.assign(lambda _: self.holders)
            self._act(actions)
            for assignment in assignments:
                self._act(self.audits.answered(assignment, self.answer(assignment.holder)))
            if not assignments:
                return

    def _act(self, actions: Sequence[Action]) -> None:
        self.actions += actions
        caught = {action.node for action in actions if isinstance(action, Quarantine)}
        self.holders = [holder for holder in self.holders if holder.node not in caught]

    @property
    def caught(self) -> set[str]:
        return {action.node for action in self.actions if isinstance(action, Quarantine)}


def test_an_honest_node_is_settled_with() -> None:
    swarm = Swarm([A, B], lambda _: TRUE)
    swarm.audit(A)
    assert swarm.actions == [Audited(A.key, passed=True), Settle(A.key)]
    assert swarm.audits.record(A.key) == Record(passed=1)
    assert swarm.audits.totals == Record(passed=1)


def test_a_liar_is_quarantined_and_forfeits() -> None:
    swarm = Swarm([A, B, C], lambda holder: LIE if holder is A else TRUE)
    swarm.audit(A)
    [failed, quarantine, forfeit] = swarm.actions
    assert failed == Audited(A.key, passed=False)
    assert isinstance(quarantine, Quarantine)
    assert quarantine.node == A.node
    assert "its hidden rows of layers 0-1, 1 positions, were wrong twice" in quarantine.reason
    assert forfeit == Forfeit(A.key)
    assert swarm.audits.record(A.key).failed == 1


def test_an_auditor_that_lies_is_caught_and_the_audited_one_passes() -> None:
    swarm = Swarm([A, B, C], lambda holder: LIE if holder is B else TRUE)
    for _ in range(20):
        swarm.audit(A)
    assert swarm.caught == {B.node}
    assert swarm.audits.record(A.key) == Record(passed=20)


def test_bad_luck_is_retested_and_only_its_return_is_punished() -> None:
    wrong = iter([LIE, TRUE, LIE])
    swarm = Swarm([A, B, C], lambda holder: next(wrong, TRUE) if holder is A else TRUE)
    swarm.audit(A)
    assert isinstance(swarm.actions[-1], Suspect)
    assert swarm.caught == set()
    assert swarm.audits.opened([A.key], [0], 100)  # its next sessions are all audited
    swarm.audit(A)
    assert swarm.caught == {A.node}


def test_bad_luck_is_forgotten_after_many_audits() -> None:
    wrong = iter([LIE, *[TRUE] * 200, LIE])
    swarm = Swarm([A, B, C], lambda holder: next(wrong, TRUE) if holder is A else TRUE)
    for _ in range(202):
        swarm.audit(A)
    assert swarm.audits.record(A.key).failed == 2
    assert swarm.caught == set()


def test_two_that_contradict_each_other_are_both_watched() -> None:
    swarm = Swarm([A, B], lambda holder: LIE if holder is A else TRUE)
    for key in (A.key, B.key) * 3:
        swarm.audits.opened([key], [0], 100)
    assert not swarm.audits.opened([A.key, B.key], [0, 0], 100)
    swarm.audit(A)
    [suspect] = swarm.actions
    assert isinstance(suspect, Suspect)
    assert set(suspect.nodes) == {A.node, B.node}
    assert set(swarm.audits.opened([A.key, B.key], [0, 0], 100)) == {0, 1}
    assert swarm.audits.undecided == 1


def test_an_audit_without_an_auditor_is_drawn_again() -> None:
    swarm = Swarm([A], lambda _: TRUE)
    for _ in range(3):
        swarm.audits.opened([A.key], [0], 100)
    assert not swarm.audits.opened([A.key], [0], 100)
    swarm.audit(A)
    assert swarm.actions == []
    assert swarm.audits.opened([A.key], [0], 100)


def test_few_audits_run_at_once_and_one_on_each_node() -> None:
    audits = Audits(0.02, lambda _, one, other, __: one == other, random.Random(0).random)
    for audited in (A, B, C, D) * 20:  # far more than are kept
        audits.collected(Evidence(1, Stage(audited.node, Span(0, 1)), 3, (b"x",), TRUE, (None,)), audited)
    running, _ = audits.assign(lambda _: [A, B, C, D])
    running += audits.assign(lambda _: [A, B, C, D])[0]
    assert 1 <= len(running) <= 2
    assert len({assignment.holder.node for assignment in running}) == len(running)
    passed = 0
    while running:
        passed += sum(isinstance(action, Settle) for action in audits.answered(running.pop(), TRUE))
        running += audits.assign(lambda _: [A, B, C, D])[0]
    assert passed == 32


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_stage_that_nobody_else_holds_is_not_drawn(rate: float) -> None:
    audits = Audits(rate, lambda *_: True, random.Random(0).random)
    assert set(audits.opened([b"", b"x", b""], [0, 0, 4], 100)) == ({1} if rate else set())


def test_where_nobody_audits_work_is_settled_at_once() -> None:
    assert Audits(0.0, lambda *_: True).stepped(b"x", 1) == [Settle(b"x")]
    assert Audits(0.02, lambda *_: True).stepped(b"x", 1) == []


def test_nodes_that_were_not_seen_for_long_are_forgotten_but_not_their_share_of_the_totals(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_KNOWN", 2)
    swarm = Swarm([A, B], lambda _: TRUE)
    swarm.audit(A)
    swarm.audits.record(B.key)
    swarm.audits.record(A.key)  # seen again
    swarm.audits.record(C.key)
    assert swarm.audits.record(A.key) == Record(passed=1)
    swarm.audits.record(D.key)
    swarm.audits.record(B.key)
    assert swarm.audits.record(A.key) == Record()
    assert swarm.audits.totals == Record(passed=1)


def test_no_audit_takes_more_than_may_be_kept() -> None:
    audits = Audits(0.02, lambda *_: True, random.Random(0).random)
    drawn = audits.opened([b"x", b"y"], [0, 7], 10)
    assert drawn[0] == 10
    assert drawn[1] == 3  # behind the seven rows before the prompt's last
    assert 1 not in audits.opened([b"x", b"y"], [0, 49], 10)


@given(
    liar=st.sampled_from([A, B, C]),
    honesty=st.floats(0, 0.8),
    failing=st.floats(0, 0.3),
    order=st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
)
def test_while_one_of_three_lies_no_other_is_convicted(
    liar: Holder, honesty: float, failing: float, order: list[Holder], seed: int
) -> None:
    chance = random.Random(seed)

    def answer(holder: Holder) -> Answer | None:
        if chance.random() < failing:
            return None
        return LIE if holder is liar and chance.random() >= honesty else TRUE

    swarm = Swarm([A, B, C], answer, seed)
    for audited in order:
        if audited in swarm.holders:
            swarm.audit(audited)
    assert swarm.caught <= {liar.node}
    assert all(swarm.audits.record(holder.key).failed == 0 for holder in (A, B, C) if holder is not liar)


@given(st.sampled_from([A, B, C]), st.integers(0, 2**32))
def test_one_that_always_lies_is_caught_by_its_first_audit(liar: Holder, seed: int) -> None:
    swarm = Swarm([A, B, C], lambda holder: LIE if holder is liar else TRUE, seed)
    swarm.audit(liar)
    assert swarm.caught == {liar.node}


def test_a_liar_that_hangs_up_before_the_verdict_is_shut_out_all_the_same() -> None:
    swarm = Swarm([B, C], lambda holder: LIE if holder.key == A.key else TRUE)
    swarm.audit(A)
    assert swarm.caught == set()  # a retest was not possible: it is suspected
    back = replace(A, node="n99")
    swarm.holders.append(back)
    swarm.audit(A)
    assert [action.key for action in swarm.actions if isinstance(action, Quarantine)] == [A.key]


def test_whoever_has_passed_its_first_audits_is_credible_until_a_case_is_open() -> None:
    swarm = Swarm([A, B], lambda _: TRUE)
    for _ in range(3):
        assert not swarm.audits.is_credible(A.key)
        swarm.audit(A)
    assert swarm.audits.is_credible(A.key)
    assert Audits(0.0, lambda *_: True).is_credible(B.key)
    swarm.audits.collected(Evidence(1, Stage(A.node, Span(0, 1)), 3, (b"x",), TRUE, (None,)), A)
    assert not swarm.audits.is_credible(A.key)


def test_evidence_that_is_too_much_at_once_is_not_kept_but_drawn_again(monkeypatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    audits = Audits(0.02, lambda _, one, other, __: one == other, random.Random(0).random)
    while audits.opened([A.key], [0], 100):
        pass
    for rows in (30, 30):
        audits.collected(Evidence(1, Stage("a", Span(0, 1)), 3, (b"x",) * rows, (b"y",) * rows, (None,)), A)
    assert len(audits.assign(lambda _: [A, B])[0]) == 1
    assert audits.opened([A.key], [0], 100)
