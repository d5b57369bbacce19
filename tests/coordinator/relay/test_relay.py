import numpy as np
import pytest

from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.relay.trace import Hop
from potluck.errors import RequestError, WireError
from potluck.types import RowFormat, Span, Stage
from potluck.wire.codec import decode_from_coordinator
from potluck.wire.messages import Close, Failed, Hidden, Scores, Step
from potluck.wire.rows import pack_ids, pack_rows, pack_scores

WIDTH = 3
VOCABULARY = 10
ROUTE = (Stage("a", Span(0, 1)), Stage("b", Span(2, 3)), Stage("c", Span(4, 5)))
ROWS = np.ones((2, WIDTH), np.float32)
PAYLOAD = memoryview(pack_rows(ROWS, RowFormat.F32))
NOTHING = memoryview(b"")


def step(number: int = 0, session: int = 1, top: int = 2, asks: tuple[tuple[int, ...], ...] = ((7,),)) -> Forward:
    return Forward(session=session, step=number, position=2 * number, rows=2, top=top, asks=asks)


def sent(last: int, asks: tuple[tuple[int, ...], ...]) -> Step:
    """The same, as a stage gets it."""
    return Step(session=1, route=5, step=0, position=0, rows=2, last=last, top=2, asks=asks, stages=3)


def started(asks: tuple[tuple[int, ...], ...] = ((7,),), form: RowFormat = RowFormat.F32) -> Relay:
    """A relay with a step of session 1 at its first stage."""
    relay = Relay(WIDTH, VOCABULARY, form)
    relay.open(1, ROUTE, version=5)
    relay.start(step(asks=asks), bytes(8))
    return relay


def at_the_end(asks: tuple[tuple[int, ...], ...] = ((7,),)) -> Relay:
    relay = started(asks)
    for node in ("a", "b"):
        relay.hidden(node, Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD)
    return relay


def candidates(*rows: tuple[list[int], list[float]], total: float = 1.0) -> memoryview:
    return memoryview(
        pack_scores([(np.array(ids, np.int32), np.array(scores, np.float32), total) for ids, scores in rows])
    )


def test_a_step_goes_from_stage_to_stage_and_ends_as_candidates() -> None:
    relay = Relay(WIDTH, VOCABULARY, RowFormat.F32)
    relay.open(1, ROUTE, version=5)
    tokens = pack_ids(np.array([3, 4], np.int32))
    outgoing = relay.start(step(), tokens)
    seen = []
    for node in ("a", "b"):
        message, payload = decode_from_coordinator(outgoing[1])
        seen.append((outgoing[0], message, bytes(payload)))
        next_one = relay.hidden(node, Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD)
        assert next_one is not None
        assert next_one.onward is not None
        outgoing = next_one.onward
    message, payload = decode_from_coordinator(outgoing[1])
    seen.append((outgoing[0], message, bytes(payload)))
    assert seen == [
        ("a", sent(last=1, asks=()), tokens),
        ("b", sent(last=3, asks=()), bytes(PAYLOAD)),
        ("c", sent(last=5, asks=((7,),)), bytes(PAYLOAD)),
    ]
    got = relay.scores("c", Scores(1, 5, 0, (3,), 0.0, 0.0), candidates(([7, 1, 3], [-3.0, -0.5, -1.0])))
    assert got is not None
    assert got.result is not None
    assert [(row.ids.tolist(), row.normalizer) for row in got.result if isinstance(row, Candidates)] == [
        ([1, 3, 7], 1.0)
    ]


@pytest.mark.parametrize(
    ("tokens", "asks", "wrong"),
    [([3, VOCABULARY], (), 10), ([-1, 3], (), -1), ([3, 4], ((), (7, VOCABULARY + 1)), 11)],
)
def test_tokens_that_the_model_does_not_have_reach_no_node(
    tokens: list[int], asks: tuple[tuple[int, ...], ...], wrong: int
) -> None:
    relay = Relay(WIDTH, VOCABULARY, RowFormat.F32)
    relay.open(1, ROUTE, version=5)
    with pytest.raises(RequestError, match=f"^The model does not have the token {wrong}: its tokens are 0-9.$"):
        relay.start(step(asks=asks), pack_ids(np.array(tokens, np.int32)))
    assert relay.awaited() == []
    with pytest.raises(WireError, match="more steps than it was given"):
        relay.failed("a", Failed(1, 5, 0, "It was given nothing."))


def test_frames_that_nobody_waits_for_are_dropped() -> None:
    scores = candidates(([1, 7], [-1.0, -2.0]))
    for session, version, number in ((2, 5, 0), (1, 4, 0), (1, 5, 9), (-1, 5, 0), (2**63, 2**63, 2**63)):
        assert at_the_end().scores("c", Scores(session, version, number, (2,), 0.0, 0.0), scores) is None
        assert at_the_end().hidden("c", Hidden(session, version, number, 2, 0.0, 0.0), PAYLOAD) is None
        assert not at_the_end().failed("c", Failed(session, version, number, "no"))


def test_late_answers_are_at_most_as_many_as_steps_were_sent() -> None:
    relay = at_the_end()
    relay.close(1)
    late = Scores(1, 5, 0, (2,), 0.0, 0.0)
    assert relay.scores("c", late, candidates(([1, 7], [-1.0, -2.0]))) is None
    with pytest.raises(WireError, match="more steps than it was given"):
        relay.scores("c", late, candidates(([1, 7], [-1.0, -2.0])))


def test_an_answer_that_is_sent_again_is_refused() -> None:
    relay = at_the_end()
    scores = candidates(([1, 7], [-1.0, -2.0]))
    assert relay.scores("c", Scores(1, 5, 0, (2,), 0.0, 0.0), scores) is not None
    with pytest.raises(WireError, match="more steps than it was given"):
        relay.scores("c", Scores(1, 5, 0, (2,), 0.0, 0.0), scores)


def test_no_answer_overtakes_another_of_its_session() -> None:
    relay = started()
    relay.start(step(1), bytes(8))
    with pytest.raises(WireError, match="Step 1 of session 1 overtakes another"):
        relay.hidden("a", Hidden(1, 5, 1, 2, 0.0, 0.0), PAYLOAD)
    for number in (0, 1):
        assert relay.hidden("a", Hidden(1, 5, number, 2, 0.0, 0.0), PAYLOAD) is not None


def test_what_a_node_may_still_say_goes_with_it() -> None:
    relay = at_the_end()
    relay.close(1)
    relay.forget("c")
    with pytest.raises(WireError, match="more steps than it was given"):
        relay.failed("c", Failed(1, 5, 0, "no"))


@pytest.mark.parametrize("node", ["b", "c", "nobody"])
def test_a_node_does_not_answer_for_another(node: str) -> None:
    relay = started()
    with pytest.raises(WireError, match="not at this node"):
        relay.hidden(node, Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD)
    with pytest.raises(WireError, match="not at this node"):
        relay.scores(node, Scores(1, 5, 0, (2,), 0.0, 0.0), candidates(([1, 7], [-1.0, -2.0])))
    with pytest.raises(WireError, match="not at this node"):
        relay.failed(node, Failed(1, 5, 0, "no"))
    assert relay.hidden("a", Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD) is not None


def test_a_node_does_not_answer_twice() -> None:
    relay = started()
    relay.hidden("a", Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD)
    with pytest.raises(WireError, match="not at this node"):
        relay.hidden("a", Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD)


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 12), (3, 36), (2, 0), (2, 23), (2, 25), (0, 0), (-2, 24), (2**63, 24), (1, 24)]
)
@pytest.mark.parametrize("form", list(RowFormat))
def test_rows_that_do_not_match_are_malformed(rows: int, size: int, form: RowFormat) -> None:
    relay = started(form=form)
    with pytest.raises(WireError, match="hidden rows of this step"):
        relay.hidden("a", Hidden(1, 5, 0, rows, 0.0, 0.0), memoryview(bytes(size)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_malformed(bad: float) -> None:
    """Or the next node, which is honest, would be dropped for what it makes of them."""
    rows = ROWS.copy()
    rows[1, 2] = bad
    with pytest.raises(WireError):
        started().hidden("a", Hidden(1, 5, 0, 2, 0.0, 0.0), memoryview(rows.tobytes()))


def test_each_kind_of_answer_comes_from_its_stage() -> None:
    with pytest.raises(WireError, match="was not asked for them"):
        started().scores("a", Scores(1, 5, 0, (2,), 0.0, 0.0), candidates(([1, 7], [-1.0, -2.0])))
    with pytest.raises(WireError, match="hidden rows where it should not"):
        at_the_end().hidden("c", Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD)


@pytest.mark.parametrize("counts", [(), (2, 2), (0,), (-1,), (4,), (2**62,), (2**63,), (1, 1, 1), tuple(range(1000))])
def test_counts_that_were_not_wanted_are_malformed(counts: tuple[int, ...]) -> None:
    with pytest.raises(WireError, match="wanted"):
        at_the_end().scores("c", Scores(1, 5, 0, counts, 0.0, 0.0), candidates(([1, 7], [-1.0, -2.0])))


@pytest.mark.parametrize("size", [0, 19, 21, 28, 4])
def test_scores_of_another_size_are_malformed(size: int) -> None:
    with pytest.raises(WireError):
        at_the_end().scores("c", Scores(1, 5, 0, (2,), 0.0, 0.0), memoryview(bytes(size)))


@pytest.mark.parametrize(
    ("ids", "scores", "total"),
    [
        ([7, VOCABULARY], [-1.0, -2.0], 1.0),
        ([7, -1], [-1.0, -2.0], 1.0),
        ([7, 7], [-1.0, -2.0], 1.0),
        ([7, 2**31 - 1], [-1.0, -2.0], 1.0),
        ([7, 1], [-1.0, np.nan], 1.0),
        ([7, 1], [np.nan, np.nan], 1.0),
        ([7, 1], [1.0, -1.0], 1.0),
        ([7, 1], [np.inf, -1.0], 1.0),
        ([7, 1], [-np.inf, -np.inf], 1.0),
        ([7, 1], [-1.0, -2.0], np.nan),
        ([7, 1], [-1.0, -2.0], np.inf),
    ],
)
def test_candidates_that_cannot_be_are_malformed(ids: list[int], scores: list[float], total: float) -> None:
    with pytest.raises(WireError):
        at_the_end().scores("c", Scores(1, 5, 0, (2,), 0.0, 0.0), candidates((ids, scores), total=total))


@pytest.mark.parametrize("ids", [[1, 2], [1], [1, 2, 3]])
def test_candidates_without_those_asked_for_are_malformed(ids: list[int]) -> None:
    relay = at_the_end(asks=((7,),))
    with pytest.raises(WireError):
        relay.scores("c", Scores(1, 5, 0, (len(ids),), 0.0, 0.0), candidates((ids, [-1.0] * len(ids))))


def test_a_malformed_answer_leaves_the_step_where_it_was() -> None:
    relay = at_the_end()
    with pytest.raises(WireError):
        relay.scores("c", Scores(1, 5, 0, (9,), 0.0, 0.0), NOTHING)
    assert relay.scores("c", Scores(1, 5, 0, (2,), 0.0, 0.0), candidates(([1, 7], [-1.0, -2.0]))) is not None


def test_several_steps_of_a_session_are_under_way_at_once() -> None:
    relay = started(asks=())
    relay.start(step(1), bytes(8))
    assert relay.hidden("a", Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD) is not None
    assert relay.hidden("a", Hidden(1, 5, 1, 2, 0.0, 0.0), PAYLOAD) is not None
    assert relay.hidden("b", Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD) is not None
    ended = relay.scores("c", Scores(1, 5, 0, (), 0.0, 0.0), NOTHING)
    assert ended is not None
    assert ended.result == []


def test_a_failure_counts_only_from_the_node_that_has_the_step() -> None:
    relay = started()
    assert relay.failed("a", Failed(1, 5, 0, "no room"))
    with pytest.raises(WireError):
        relay.failed("b", Failed(1, 5, 0, "no room"))


def test_closing_tells_every_node_of_the_route_once() -> None:
    relay = started()
    assert relay.is_open(1)
    closing = relay.close(1)
    assert [(node, decode_from_coordinator(frame)[0]) for node, frame in closing] == [
        (stage.node, Close(1)) for stage in ROUTE
    ]
    assert not relay.is_open(1)
    assert relay.close(1) == []
    assert relay.hidden("a", Hidden(1, 5, 0, 2, 0.0, 0.0), PAYLOAD) is None


def test_a_row_has_the_size_of_its_format() -> None:
    assert Relay(100, 10, RowFormat.F32).row_bytes == 400
    assert Relay(100, 10, RowFormat.F16).row_bytes == 201
    assert Relay(100, 10, RowFormat.Q8).row_bytes == 108


def hop(index: int, node: str, span: Span, sent: float, received: float, queue_s: float, compute_s: float) -> Hop:
    """Of step 4 of session 1."""
    return Hop(
        session=1,
        step=4,
        index=index,
        stages=3,
        node=node,
        span=span,
        rows=2,
        position=0,
        sent=sent,
        received=received,
        queue_s=queue_s,
        compute_s=compute_s,
    )


def test_every_hop_is_recorded_with_its_times() -> None:
    times = iter([10.0, 10.5, 11.0, 13.0])
    relay = Relay(WIDTH, VOCABULARY, RowFormat.F32, clock=lambda: next(times))
    relay.open(1, ROUTE, version=5)
    relay.start(Forward(session=1, step=4, position=0, rows=2, top=2, asks=((7,),)), bytes(8))
    relay.hidden("a", Hidden(1, 5, 4, 2, 0.1, 0.2), PAYLOAD)
    relay.hidden("b", Hidden(1, 5, 4, 2, 0.0, 0.3), PAYLOAD)
    assert len(relay.trace.hops()) == 2
    relay.scores("c", Scores(1, 5, 4, (2,), 0.5, 1.0), candidates(([1, 7], [-1.0, -2.0])))
    assert relay.trace.hops() == [
        hop(0, "a", Span(0, 1), 10.0, 10.5, 0.1, 0.2),
        hop(1, "b", Span(2, 3), 10.5, 11.0, 0.0, 0.3),
        hop(2, "c", Span(4, 5), 11.0, 13.0, 0.5, 1.0),
    ]


def test_a_guess_is_recorded_at_the_stage_where_it_became_void() -> None:
    times = iter([10.0, 10.1, 10.2, 10.5, 12.0, 12.1, 12.2])
    relay = Relay(WIDTH, VOCABULARY, RowFormat.F32, clock=lambda: next(times))
    relay.open(1, ROUTE, version=5)
    known, *guesses = (
        Forward(session=1, step=one, position=one, rows=1, asks=((),), guessed=one > 0) for one in range(3)
    )
    for one in (known, *guesses):
        relay.start(one, bytes(4))
    row = memoryview(bytes(4 * WIDTH))
    relay.hidden("a", Hidden(1, 5, 0, 1, 0.0, 0.1), row)
    relay.void(1, 1)
    relay.void(1, 1)
    known_hop, *voids = relay.trace.hops()
    assert (known_hop.step, known_hop.void) == (0, False)
    assert [(one.step, one.position, one.node, one.sent, one.received, one.compute_s) for one in voids] == [
        (1, 1, "a", 10.1, 12.0, 0.0),
        (2, 2, "a", 10.2, 12.1, 0.0),
    ]
    assert all(one.guessed and one.void for one in voids)
    assert relay.hidden("a", Hidden(1, 5, 1, 1, 0.0, 0.1), row) is None  # it comes too late to count
    assert len(relay.trace.hops()) == 3


def test_what_is_late_or_malformed_is_not_recorded() -> None:
    relay = started()
    assert relay.hidden("a", Hidden(2, 5, 0, 2, 0.0, 0.0), PAYLOAD) is None
    for wrong in (Hidden(1, 5, 0, 2, -1.0, 0.0), Hidden(1, 5, 0, 2, 0.0, np.nan), Hidden(1, 5, 0, 1, 0.0, 0.0)):
        with pytest.raises(WireError):
            relay.hidden("a", wrong, PAYLOAD)
    assert relay.trace.hops() == []
