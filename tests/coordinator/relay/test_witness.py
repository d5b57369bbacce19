from collections import deque
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.relay import witness as module
from potluck.coordinator.relay.evidence import Asked, Evidence
from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.relay.witness import Witness
from potluck.types import RowFormat, Span, Stage
from potluck.wire.codec import MAX_FRAME, encode
from potluck.wire.messages import Step
from potluck.wire.rows import join_rows, pack_ids, pack_rows, pack_scores, split_rows, split_scores

WIDTH = 4
ROUTE = (Stage("a", Span(0, 1)), Stage("b", Span(2, 3)), Stage("c", Span(4, 5)))
FORMS = tuple(RowFormat)


def rows_of(positions: range, stage: int) -> np.ndarray:
    return np.array([[stage, position, 0.5, -1] for position in positions], np.float32)


def scores_of(position: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    return [(np.array([position, 900], np.int32), np.array([-0.5, -1], np.float32), 2.0)]


def step(position: int, rows: int, asks: int = 0, top: int = 2, *, keep: bool = False) -> Forward:
    return Forward(session=7, step=position, position=position, rows=rows, top=top, asks=((),) * asks, keep=keep)


class Session:
    """Plays steps of session 7 to a witness, as the relay would show them."""

    def __init__(self, wants: dict[int, int], form: RowFormat = RowFormat.F32, limit: int = 1 << 20) -> None:
        self.found: list[Evidence] = []
        self.witness = Witness(form, limit, self.found.append)
        self.witness.watch(7, ROUTE, wants)
        self.form = form

    def run(self, one: Forward) -> None:
        positions = range(one.position, one.position + one.rows)
        self.witness.given(0, one, pack_ids(np.array(positions, np.int32)))
        for place in (1, 2):
            payload = pack_rows(rows_of(positions, place), self.form)
            self.witness.gave(place - 1, one, payload)
            self.witness.given(place, one, payload)
        wanted = positions[len(positions) - len(one.asks) :]
        scores = [score for position in wanted for score in scores_of(position)]
        self.witness.scored(2, one, (2,) * len(one.asks), pack_scores(scores))

    def answer(self) -> None:
        """A prompt of 100 tokens and 5 generated ones."""
        self.run(step(0, 64))
        self.run(step(64, 36, 1))
        for position in range(100, 104):
            self.run(step(position, 1, 1))


@pytest.mark.parametrize("form", FORMS)
def test_what_a_middle_stage_was_given_and_gave(form: RowFormat) -> None:
    session = Session({1: 70}, form)
    session.answer()
    [evidence] = session.found
    assert (evidence.session, evidence.stage, evidence.stages, evidence.final) == (7, ROUTE[1], 3, False)
    assert join_rows(evidence.given, form) == pack_rows(rows_of(range(70), 1), form)
    assert evidence.gave == tuple(split_rows(pack_rows(rows_of(range(70), 2), form), 70, form))
    assert [(question.position, len(question.rows)) for question in evidence.questions()] == [(0, 64), (64, 6)]
    assert session.witness.nbytes == 0


def test_what_the_first_stage_was_given_are_tokens() -> None:
    session = Session({0: 3})
    session.answer()
    [evidence] = session.found
    assert b"".join(evidence.given) == pack_ids(np.arange(3, dtype=np.int32))


def test_the_last_stage_is_judged_by_the_rows_that_it_was_asked_about() -> None:
    session = Session({2: 3})
    session.answer()
    [evidence] = session.found
    assert evidence.final
    judged = {position for position, row in enumerate(evidence.gave) if row is not None}
    assert (judged, len(evidence.given)) == ({99, 100, 101}, 102)
    first, second = evidence.questions()
    assert (first.position, len(first.rows), first.asks) == (0, 64, ())
    assert (second.position, len(second.rows), second.top) == (64, 38, 2)
    assert second.asks == ((99, 900), (100, 900), (101, 900))  # what it named is asked for by name
    assert evidence.gave[100] == split_scores(pack_scores(scores_of(100)), (2,))[0]


def test_rows_that_were_asked_otherwise_are_other_questions() -> None:
    session = Session({2: 4})
    for position, top in enumerate((2, 2, 5, 5)):
        session.run(step(position, 1, 1, top))
    [evidence] = session.found
    assert [(one.position, len(one.rows), one.top) for one in evidence.questions()] == [(0, 2, 2), (2, 2, 5)]


def test_a_session_that_ends_early_is_judged_as_far_as_it_came() -> None:
    session = Session({0: 50, 1: 50, 2: 50})
    session.run(step(0, 10, 1))
    session.witness.given(0, step(10, 1, 1), pack_ids(np.array([10], np.int32)))  # no answer comes to that
    session.witness.close(7)
    assert [len(evidence.given) for evidence in session.found] == [10, 10, 10]
    session.run(step(10, 1, 1))
    assert (len(session.found), session.witness.nbytes) == (3, 0)


def test_a_session_that_showed_nothing_is_no_evidence() -> None:
    session = Session({2: 5})
    session.run(step(0, 10))
    session.witness.close(7)
    assert session.found == []
    assert session.witness.nbytes == 0


def test_positions_that_are_fed_again_take_the_place_of_the_old_ones() -> None:
    session = Session({1: 8})
    session.run(step(0, 5, 1))
    session.run(step(3, 1, 1))
    session.run(step(4, 5, 1))
    [evidence] = session.found
    assert evidence.gave == tuple(split_rows(pack_rows(rows_of(range(8), 2), RowFormat.F32), 8, RowFormat.F32))


def test_of_too_many_records_the_oldest_go() -> None:
    found: list[Evidence] = []
    witness = Witness(RowFormat.F32, 1000, found.append)
    for number in range(100):
        witness.watch(number, ROUTE, {1: 50})
        one = Forward(session=number, step=0, position=0, rows=10)
        witness.given(1, one, pack_rows(rows_of(range(10), 1), RowFormat.F32))
        assert witness.nbytes <= 1000
    for number in range(100):
        witness.gave(
            1, Forward(session=number, step=0, position=0, rows=10), pack_rows(rows_of(range(10), 2), RowFormat.F32)
        )
        witness.close(number)
    assert found
    assert all(evidence.session > 90 for evidence in found)
    assert witness.nbytes == 0


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), max_size=12), st.integers(1, 30))
def test_whatever_is_fed_evidence_is_whole_and_in_order(steps: list[tuple[int, int]], want: int) -> None:
    session, length = Session({0: want, 1: want, 2: want}), 0
    for back, rows in steps:
        position = max(0, length - back)
        session.run(step(position, rows, 1))
        length = position + rows
    session.witness.close(7)
    assert session.witness.nbytes == 0
    for evidence in session.found:
        assert len(evidence.given) == len(evidence.gave) == len(evidence.asks)
        questions = evidence.questions()
        assert [row for question in questions for row in question.rows] == list(evidence.given)
        if not evidence.final:
            assert None not in evidence.gave


def test_the_watch_goes_on_in_a_chats_next_turn() -> None:
    session = Session({1: 8, 2: 3})
    session.run(step(0, 5, 1))
    session.witness.pause(7)
    session.witness.pause(7)  # shows nothing twice
    session.run(step(5, 1, 1))
    session.run(step(6, 4, 1))
    middle = [len(evidence.given) for evidence in session.found if not evidence.final]
    final = [len(evidence.given) for evidence in session.found if evidence.final]
    assert (middle, final) == ([5, 8], [5, 10])
    session.witness.close(7)
    assert (len(session.found), session.witness.nbytes) == (4, 0)


def test_stages_that_stay_on_a_route_are_watched_further_and_others_shown() -> None:
    session = Session({0: 8, 1: 8, 2: 9})
    session.run(step(0, 5, 1))
    session.witness.reroute(7, (ROUTE[0], Stage("x", Span(2, 2)), Stage("y", Span(3, 3)), ROUTE[2]))
    assert [(evidence.stage.node, len(evidence.given)) for evidence in session.found] == [("b", 5)]
    one = step(5, 3, 1)
    payload = pack_rows(rows_of(range(5, 8), 1), RowFormat.F32)
    session.witness.given(0, one, pack_ids(np.arange(5, 8, dtype=np.int32)))
    session.witness.gave(0, one, payload)
    session.witness.given(3, one, payload)
    session.witness.scored(3, one, (2,), pack_scores(scores_of(7)))
    session.witness.close(7)
    assert [(evidence.stage.node, evidence.stages, len(evidence.given)) for evidence in session.found[1:]] == [
        ("a", 4, 8),
        ("c", 4, 8),
    ]
    assert session.witness.nbytes == 0


def test_what_an_heir_computes_first_is_no_answer_but_what_an_auditor_needs() -> None:
    session = Session({})
    session.witness.watch(7, ROUTE, {1: 2}, before=6)
    for position, rows in ((0, 4), (4, 2)):
        one = step(position, rows, keep=True)
        session.witness.given(1, one, pack_rows(rows_of(range(position, position + rows), 1), RowFormat.F32))
        session.witness.kept(1, one)
    session.run(step(6, 3, 1))
    [evidence] = session.found
    assert [row is None for row in evidence.gave] == [True] * 6 + [False] * 2
    [question] = evidence.questions()
    assert (question.position, len(question.rows), session.witness.nbytes) == (0, 8, 0)


def test_a_stage_that_computes_anew_what_it_had_from_a_liar_is_judged_by_what_it_was_given_then() -> None:
    session = Session({2: 3})
    session.run(step(0, 5, 1))
    session.run(step(5, 1, 1))
    session.witness.reroute(7, (ROUTE[0], Stage("x", Span(2, 3)), ROUTE[2]))
    again = step(0, 6, keep=True)
    session.witness.given(2, again, pack_rows(rows_of(range(6), 9), RowFormat.F32))
    session.witness.kept(2, again)
    for position in range(6, 9):
        session.run(step(position, 1, 1))
    [evidence] = session.found
    assert b"".join(evidence.given[:6]) == pack_rows(rows_of(range(6), 9), RowFormat.F32)
    assert {position for position, row in enumerate(evidence.gave) if row is not None} == {6, 7, 8}


def test_a_stage_that_is_its_own_heir_is_watched_anew_and_leaves_no_bytes_behind() -> None:
    session = Session({1: 9})
    session.run(step(0, 5, 1))
    session.witness.reroute(7, ROUTE)
    session.witness.watch(7, ROUTE, {1: 2}, before=5)
    assert [len(evidence.given) for evidence in session.found] == [5]
    assert session.witness.nbytes == 0
    again = step(0, 5, keep=True)
    session.witness.given(1, again, pack_rows(rows_of(range(5), 1), RowFormat.F32))
    session.witness.kept(1, again)
    session.run(step(5, 2, 1))
    assert [len(evidence.given) for evidence in session.found] == [5, 7]
    assert session.witness.nbytes == 0


def test_what_was_shown_is_shown_again_once_it_has_doubled() -> None:
    session = Session({1: 50})
    for position in range(20):
        session.run(step(position, 1, 1))
        session.witness.pause(7)
    session.witness.close(7)
    assert [len(evidence.given) for evidence in session.found] == [1, 2, 4, 8, 16, 20]


def test_rows_that_are_sent_once_more_are_what_the_stage_answers_for() -> None:
    session = Session({1: 9})
    session.run(step(0, 6, 1))
    before = session.witness.nbytes
    session.witness.recalled(1, step(0, 6, keep=True), pack_rows(rows_of(range(6), 2), RowFormat.F32))
    session.witness.recalled(0, step(0, 6, keep=True), pack_rows(rows_of(range(6), 2), RowFormat.F32))
    session.witness.pause(7)
    session.witness.recalled(1, step(2, 9, keep=True), pack_rows(rows_of(range(2, 11), 9), RowFormat.F32))
    assert session.witness.nbytes == before
    session.witness.close(7)
    honest, told = session.found
    assert honest.gave == tuple(split_rows(pack_rows(rows_of(range(6), 2), RowFormat.F32), 6, RowFormat.F32))
    assert told.gave[:2] == honest.gave[:2]
    assert told.gave[2:] == tuple(split_rows(pack_rows(rows_of(range(2, 6), 9), RowFormat.F32), 4, RowFormat.F32))


def test_where_many_candidates_were_named_questions_are_short() -> None:
    """All candidates of a large vocabulary are asked for where a form lets few of the likely ones come."""
    ids = np.arange(100_000, dtype=np.int32)
    row = pack_scores([(ids, np.full(len(ids), -9, np.float32), 1.0)])
    asked = Asked(1, ())
    evidence = Evidence(7, ROUTE[2], 3, (b"given",) * 20, (None, *[row] * 19), (None, *[asked] * 19))
    questions = evidence.questions()
    assert [row for question in questions for row in question.rows] == list(evidence.given)
    assert (
        max(
            len(
                encode(
                    Step(session=7, route=1, step=0, position=0, rows=20, last=5, top=1, asks=question.asks, stages=3)
                )
            )
            for question in questions
        )
        < MAX_FRAME / 4
    )
    assert all(8 * sum(map(len, question.asks)) <= 4 << 20 for question in questions)
    assert len(questions) == 4


def test_a_record_that_is_long_grows_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVIDENCE_BYTES", 1000)
    session = Session({2: 9})
    for turn in range(5):
        session.run(step(64 * turn, 64, 1))
    session.witness.close(7)
    [evidence] = session.found
    assert len(evidence.given) == 64
    assert session.witness.nbytes == 0


def guess(number: int, position: int, rows: int = 1, asks: int = 0) -> Forward:
    return Forward(session=7, step=number, position=position, rows=rows, top=2, asks=((),) * asks)


def test_the_late_answer_to_a_wrong_guess_is_no_answer_to_what_was_given_in_its_place() -> None:
    session = Session({0: 3})
    session.run(guess(0, 0))
    wrong, right, last = guess(1, 1), guess(2, 1), guess(3, 2)
    session.witness.given(0, wrong, pack_ids(np.array([90], np.int32)))
    session.witness.given(0, right, pack_ids(np.array([1], np.int32)))
    session.witness.gave(0, wrong, pack_rows(rows_of(range(90, 91), 1), RowFormat.F32))
    session.witness.gave(0, right, pack_rows(rows_of(range(1, 2), 1), RowFormat.F32))
    session.run(last)
    [evidence] = session.found
    assert b"".join(evidence.given) == pack_ids(np.arange(3, dtype=np.int32))
    assert b"".join(row or b"" for row in evidence.gave) == pack_rows(rows_of(range(3), 1), RowFormat.F32)


def test_of_a_step_that_was_given_anew_in_part_the_other_part_is_an_answer() -> None:
    session = Session({0: 4})
    long = guess(0, 0, rows=3)
    session.witness.given(0, long, pack_ids(np.arange(3, dtype=np.int32)))
    session.witness.given(0, guess(1, 2, rows=2), pack_ids(np.array([80, 81], np.int32)))
    session.witness.gave(0, long, pack_rows(rows_of(range(3), 1), RowFormat.F32))
    session.witness.gave(0, guess(1, 2, rows=2), pack_rows(rows_of(range(80, 82), 1), RowFormat.F32))
    [evidence] = session.found
    assert b"".join(row or b"" for row in evidence.gave) == pack_rows(
        np.concatenate([rows_of(range(2), 1), rows_of(range(80, 82), 1)]), RowFormat.F32
    )


class HonestStage:
    """A stage that answers its steps in their order, and computes each row from everything up to it.

    skips: whether it leaves out a step that waits when a later one overwrites it.
    """

    def __init__(self, witness: Witness, place: int, *, skips: bool) -> None:
        self.witness, self.place, self.skips = witness, place, skips
        self.queue: deque[tuple[Forward, bytes]] = deque()
        self.held: list[bytes] = []
        self.answers: deque[tuple[Forward, list[bytes]]] = deque()

    def give(self, one: Forward, rows: list[bytes]) -> None:
        self.witness.given(self.place, one, b"".join(rows))
        if self.skips:
            self.queue = deque(waiting for waiting in self.queue if waiting[0].position < one.position)
        self.queue.append((one, b"".join(rows)))

    def compute(self) -> None:
        if self.queue:
            one, payload = self.queue.popleft()
            assert one.position <= len(self.held)
            del self.held[one.position :]
            self.held += split_rows(payload, one.rows, RowFormat.F32)
            self.answers.append((one, honest(self.held)[one.position :]))

    def answer(self) -> None:
        if self.answers:
            one, rows = self.answers.popleft()
            if self.place == 0:
                self.witness.gave(0, one, b"".join(rows))
                return
            wanted = rows[len(rows) - len(one.asks) :]
            scores = [(np.frombuffer(row[:4], np.int32), np.zeros(1, np.float32), 1.0) for row in wanted]
            self.witness.scored(self.place, one, (1,) * len(wanted), pack_scores(scores))


def honest(given: list[bytes]) -> list[bytes]:
    return [sha256(b"".join(given[: end + 1])).digest() for end in range(len(given))]


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("give"), st.integers(1, 3), st.integers(0, 255)),
        st.tuples(st.just("go back"), st.integers(1, 6), st.integers(0, 255)),
        st.tuples(st.sampled_from(["compute", "answer", "pause"]), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(EVENTS, st.integers(1, 20), st.booleans(), st.booleans())
def test_whatever_is_guessed_an_honest_stage_leaves_no_evidence_against_it(
    events: list[tuple[str, int, int]], want: int, final: bool, skips: bool
) -> None:
    found: list[Evidence] = []
    witness = Witness(RowFormat.F32, on_evidence=found.append)
    place = 1 if final else 0
    witness.watch(7, ROUTE[:2], {place: want})
    stage, length = HonestStage(witness, place, skips=skips), 0
    for number, (what, count, value) in enumerate(events):
        match what:
            case "give" | "go back":
                position = max(0, length - count) if what == "go back" else length
                rows = count if what == "give" else 1
                asks = min(rows, value % 3) if final else 0
                data = [bytes([value, row, 0, 0]) for row in range(rows)]
                stage.give(guess(number, position, rows, asks), data)
                length = position + rows
            case "compute":
                stage.compute()
            case "answer":
                stage.answer()
            case "pause":
                witness.pause(7)
    witness.close(7)
    for evidence in found:
        expected = honest(list(evidence.given))
        for position, row in enumerate(evidence.gave):
            if row is not None and final:
                scores = [(np.frombuffer(expected[position][:4], np.int32), np.zeros(1, np.float32), 1.0)]
                assert row == split_scores(pack_scores(scores), (1,))[0]
            elif row is not None:
                assert row == expected[position]
    assert witness.nbytes == 0
