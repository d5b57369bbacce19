from itertools import pairwise
from typing import Any

import pytest

from potluck.coordinator.relay.trace import Hop, Trace, chrome, summary
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
        position=7,
        sent=sent,
        received=received,
        queue_s=queue_s,
        compute_s=compute_s,
    )


def token(session: int = 1, step: int = 0, start: float = 100.0, rows: int = 1, seconds: float = 0.010) -> list[Hop]:
    """A whole step: `seconds` at the first stage, twice as long at the second."""
    middle = start + seconds
    return [
        hop(session, step, 0, start, middle, rows=rows),
        hop(session, step, 1, middle, middle + 2 * seconds, rows=rows),
    ]


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
