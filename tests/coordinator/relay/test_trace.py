from itertools import pairwise
from typing import Any

import pytest

from potluck.coordinator.relay.trace import Hop, Kind, Trace, chrome, ended_steps, summary
from potluck.types import Span

NAMES = {"a": "anna", "b": "ben"}
FIRST, SECOND = Span(0, 9), Span(10, 19)


def hop(
    session: int = 1,
    step: int = 0,
    index: int = 0,
    sent: float = 100.0,
    received: float = 100.010,
    queue_s: float = 0.001,
    compute_s: float = 0.005,
    rows: int = 1,
    position: int = 7,
    *,
    guessed: bool = False,
    void: bool = False,
) -> Hop:
    """By default: 10 ms, 1 in the queue, 5 in computation, and so 4 on the wire."""
    node, span = (("a", FIRST), ("b", SECOND))[index]
    return Hop(
        session=session,
        step=step,
        index=index,
        stages=2,
        node=node,
        span=span,
        rows=rows,
        position=position,
        sent=sent,
        received=received,
        queue_s=queue_s,
        compute_s=compute_s,
        guessed=guessed,
        void=void,
    )


def token(
    session: int = 1, step: int = 0, start: float = 100.0, rows: int = 1, seconds: float = 0.010, position: int = 7
) -> list[Hop]:
    """A whole step: `seconds` at the first stage, twice as long at the second."""
    middle = start + seconds
    return [
        hop(session, step, 0, start, middle, rows=rows, position=position),
        hop(session, step, 1, middle, middle + 2 * seconds, rows=rows, position=position),
    ]


def guess(step: int, position: int, sent: float, middle: float, end: float, session: int = 1) -> list[Hop]:
    """A whole guessed step."""
    return [
        hop(session, step, 0, sent, middle, position=position, guessed=True),
        hop(session, step, 1, middle, end, position=position, guessed=True),
    ]


def overtaken(step: int, position: int, sent: float, ended: float, index: int = 0) -> Hop:
    """The end of a guess at a stage, where it was sent and did not return."""
    return hop(1, step, index, sent, ended, 0.0, 0.0, position=position, guessed=True, void=True)


def fed_ahead() -> list[Hop]:
    """Tokens of 30 ms, with guesses 10 ms behind each other. In the order in which the hops ended.

    The prompt ends at position 6. The token at 7 is known, 8 is a right guess, 9 a wrong one, and 10 and 11 follow it:
    9 was computed, 10 has passed one stage, and 11 none. Then the right token for 9 is sent.
    """
    hops = [
        *[hop(step=0, index=index, sent=99.0, received=99.9, rows=7, position=0) for index in (0, 1)],
        *token(step=1, position=7),
        *guess(2, 8, 100.010, 100.020, 100.040),
        *guess(3, 9, 100.020, 100.030, 100.041),
        hop(1, 4, 0, 100.030, 100.040, position=10, guessed=True),
        overtaken(4, 10, 100.040, 100.042, index=1),
        overtaken(5, 11, 100.035, 100.042),
        *token(step=6, start=100.042, position=9),
    ]
    return sorted(hops, key=lambda one: one.received)


def drawn(timeline: dict[str, Any], process: str) -> list[tuple[str, float, float]]:
    """(name, ts, dur) of the events of one process."""
    [pid] = [
        event["pid"]
        for event in timeline["traceEvents"]
        if event["name"] == "process_name" and event["args"]["name"] == process
    ]
    return [
        (event["name"], event["ts"], event["dur"])
        for event in timeline["traceEvents"]
        if event["ph"] == "X" and event["pid"] == pid
    ]


def check_rows(timeline: dict[str, Any]) -> None:
    """No two events of a row overlap: viewers would take one for a part of the other."""
    rows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in timeline["traceEvents"]:
        if event["ph"] == "X":
            start, end = round(event["ts"] * 1000), round(event["ts"] * 1000) + round(event["dur"] * 1000)
            rows.setdefault((event["pid"], event["tid"]), []).append((start, end))
    for row in rows.values():
        assert all(one[1] <= other[0] for one, other in pairwise(sorted(row)))


def test_a_hop_is_wire_queue_compute_and_wire_in_microseconds() -> None:
    timeline = chrome([hop(index=0), hop(index=1, sent=100.010, received=100.012, queue_s=0.0, compute_s=0.002)], NAMES)
    assert timeline["displayTimeUnit"] == "ms"
    assert drawn(timeline, "anna: layers 0-9") == [
        ("wire", 0.0, 2000.0),
        ("queue", 2000.0, 1000.0),
        ("compute", 3000.0, 5000.0),
        ("wire", 8000.0, 2000.0),
    ]
    assert drawn(timeline, "ben: layers 10-19") == [("compute", 10000.0, 2000.0)]  # what took no time is left out
    assert drawn(timeline, "sessions") == [("token", 0.0, 12000.0)]
    assert all(
        event["args"] == {"session": 1, "step": 0, "rows": 1, "position": 7}
        for event in timeline["traceEvents"]
        if event["ph"] == "X"
    )


def test_events_of_a_row_meet_to_the_nanosecond() -> None:
    start = 123456.7890123
    hops = [hop for step in range(50) for hop in token(step=step, start=start + step / 3, seconds=1 / 9)]
    timeline = chrome(hops, NAMES)
    check_rows(timeline)
    assert len(drawn(timeline, "ben: layers 10-19")) == 200


def test_steps_of_a_session_that_overlap_have_rows_of_their_own() -> None:
    together = chrome([*token(step=0), *token(step=1, start=100.005), *token(session=2, start=100.001)], NAMES)
    check_rows(together)
    rows = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in together["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert sorted(name for (pid, _), name in rows.items() if pid == 2) == ["session 1", "session 1", "session 2"]
    one_by_one = chrome([*token(step=0), *token(step=1, start=101.0)], NAMES)
    assert sum(event["name"] == "thread_name" for event in one_by_one["traceEvents"]) == 3  # one a process


@pytest.mark.parametrize(("queue_s", "compute_s"), [(1e300, 1e300), (0.006, 0.006), (0.0, 0.011), (5e-324, 1e-9)])
def test_a_node_that_claims_more_time_than_there_was_stays_within_its_hop(queue_s: float, compute_s: float) -> None:
    claims = hop(queue_s=queue_s, compute_s=compute_s)
    assert all(share >= 0 for share in claims.shares)
    assert sum(claims.shares) == pytest.approx(0.010)
    timeline = chrome([claims], NAMES)
    check_rows(timeline)
    assert sum(dur for _, _, dur in drawn(timeline, "anna: layers 0-9")) == pytest.approx(10000.0)


def test_a_step_that_is_not_through_is_drawn_on_its_node_only() -> None:
    timeline = chrome([hop(index=0)], NAMES)
    assert drawn(timeline, "sessions") == []
    assert len(drawn(timeline, "anna: layers 0-9")) == 4
    assert summary([hop(index=0)], NAMES) == "No step has passed through all layers yet."


def test_guesses_are_drawn_apart_from_tokens_and_void_ones_until_they_ended() -> None:
    timeline = chrome(fed_ahead(), NAMES)
    check_rows(timeline)
    steps = [
        (event["name"], event["args"]["position"], round(event["ts"] / 1000), round(event["dur"] / 1000))
        for event in timeline["traceEvents"]
        if event["ph"] == "X" and event["pid"] == 1
    ]
    assert sorted(steps, key=lambda step: step[2]) == [
        ("prompt", 0, 0, 900),
        ("token", 7, 1000, 30),
        ("guess", 8, 1010, 30),
        ("void", 9, 1020, 21),
        ("void", 10, 1030, 12),
        ("void", 11, 1035, 7),
        ("token", 9, 1042, 30),
    ]
    on_first, on_second = (drawn(timeline, node) for node in ("anna: layers 0-9", "ben: layers 10-19"))
    assert ("wire", pytest.approx(1035000), pytest.approx(7000)) in on_first  # nobody knows more of it
    assert ("wire", pytest.approx(1040000), pytest.approx(2000)) in on_second


def test_a_void_step_of_which_the_trace_has_forgotten_the_beginning_is_drawn_from_where_it_is_known() -> None:
    timeline = chrome([overtaken(4, 10, 100.040, 100.042, index=1)], NAMES)
    assert drawn(timeline, "sessions") == [("void", 0.0, 2000.0)]
    assert drawn(timeline, "ben: layers 10-19") == [("wire", 0.0, 2000.0)]


def kinds(hops: list[Hop]) -> list[tuple[int, Kind]]:
    """The kinds of the steps by their numbers."""
    return sorted((step.hops[0].step, step.kind) for step in ended_steps(hops))


def test_a_guess_that_was_answered_is_void_if_another_token_came_at_its_position() -> None:
    assert kinds(fed_ahead()) == [
        (0, Kind.PROMPT),
        (1, Kind.TOKEN),
        (2, Kind.GUESS),
        (3, Kind.VOID),
        (4, Kind.VOID),
        (5, Kind.VOID),
        (6, Kind.TOKEN),
    ]


def test_guesses_stay_right_when_the_same_prompt_is_asked_again() -> None:
    first = [*token(step=0, rows=7, position=0), *token(step=1, start=101.0)]
    right = [*guess(2, 8, 101.010, 101.020, 101.040), *guess(3, 9, 101.020, 101.030, 101.050)]
    again = [*token(step=4, start=200.0, position=6), *token(step=5, start=201.0)]
    for hops in ([*first, *right, *again], [*first, *right, *token(step=4, start=200.0, position=7)]):
        assert [kind for number, kind in kinds(hops) if number in (2, 3)] == [Kind.GUESS, Kind.GUESS]


def test_a_guess_behind_a_prompt_is_judged_as_any_other() -> None:
    prompt = token(step=0, rows=7, position=0)  # it ends at 100.03
    behind = [*guess(1, 7, 100.001, 100.020, 100.031), *guess(2, 8, 100.002, 100.030, 100.032)]
    assert kinds([*prompt, *behind, *token(step=3, start=100.033)])[1:] == [
        (1, Kind.VOID),
        (2, Kind.VOID),
        (3, Kind.TOKEN),
    ]
    assert kinds([*prompt, *behind, *token(step=3, start=100.033, position=9)])[1:] == [
        (1, Kind.GUESS),
        (2, Kind.GUESS),
        (3, Kind.TOKEN),
    ]


def test_the_summary_is_of_tokens_that_were_known() -> None:
    assert summary(fed_ahead(), NAMES) == summary([*token(step=1), *token(step=6, start=100.042)], NAMES)


def test_a_process_is_named_after_the_longest_span_its_node_ran() -> None:
    short = Hop(
        session=1,
        step=0,
        index=0,
        stages=1,
        node="a",
        span=Span(0, 4),
        rows=1,
        position=0,
        sent=1.0,
        received=2.0,
        queue_s=0.0,
        compute_s=0.5,
    )
    long = Hop(
        session=1,
        step=1,
        index=0,
        stages=1,
        node="a",
        span=Span(0, 9),
        rows=1,
        position=1,
        sent=2.0,
        received=3.0,
        queue_s=0.0,
        compute_s=0.5,
    )
    assert len(drawn(chrome([short, long, short], {}), "a (left): layers 0-9")) == 9


def test_nothing_recorded_is_an_empty_timeline() -> None:
    assert chrome([], NAMES) == {"traceEvents": [], "displayTimeUnit": "ms"}


def test_the_summary_names_the_slowest_stage() -> None:
    hops = [*token(step=0, rows=512, seconds=9.0), *token(step=1), *token(step=2, start=101.0)]
    assert summary(hops, NAMES) == (
        "Layers 10-19 on ben take 67 % of a token's time: 20.0 of 30.0 ms (compute 5.0, queue 1.0, wire 14.0)."
    )


def test_the_summary_is_of_longer_steps_where_no_single_token_was_computed() -> None:
    assert summary(token(rows=3, seconds=0.1), {}).startswith("Layers 10-19 on b (left) take 67 % of a step's time: 20")


def test_each_node_is_measured_by_the_steps_that_ran_through_it() -> None:
    usual = [one for step in range(9) for one in token(step=step)]
    slow = [
        hop(session=2, received=100.010),
        Hop(
            session=2,
            step=0,
            index=1,
            stages=2,
            node="c",
            span=SECOND,
            rows=1,
            position=7,
            sent=100.010,
            received=100.100,
            queue_s=0.040,
            compute_s=0.050,
        ),  # rarely used, and the slowest
    ]
    assert summary([*usual, *slow], {"c": "cleo"}) == (
        "Layers 10-19 on cleo take 90 % of a token's time: 90.0 of 100.0 ms (compute 50.0, queue 40.0, wire 0.0)."
    )


def test_times_are_means() -> None:
    quick_then_slow = [*token(step=0, seconds=0.010), *token(step=1, seconds=0.020)]
    assert summary(quick_then_slow, NAMES).startswith(
        "Layers 10-19 on ben take 67 % of a token's time: 30.0 of 45.0 ms"
    )


def test_one_layer_is_singular() -> None:
    assert summary(
        [
            Hop(
                session=3,
                step=0,
                index=0,
                stages=1,
                node="c",
                span=Span(0, 0),
                rows=1,
                position=0,
                sent=1.0,
                received=1.1,
                queue_s=0.0,
                compute_s=0.1,
            )
        ],
        {"c": "cleo"},
    ) == ("Layer 0 on cleo takes 100 % of a token's time: 100.0 of 100.0 ms (compute 100.0, queue 0.0, wire 0.0).")


def test_only_the_latest_hops_are_kept() -> None:
    trace = Trace(size=4)
    assert (trace.hops(), trace.count) == ([], 0)
    for session in (1, 3, 2):
        for one in token(session):
            trace.add(one)
    assert [hop.session for hop in trace.hops()] == [3, 3, 2, 2]
    assert trace.count == 6
    assert [hop.session for hop in trace.hops(after=4)] == [2, 2]


def test_hops_are_found_by_what_came_before() -> None:
    trace = Trace()
    for session in (1, 2, 3):
        trace.add(hop(session))
    assert [hop.session for hop in trace.hops(after=1)] == [2, 3]
    assert trace.hops(after=3) == []
