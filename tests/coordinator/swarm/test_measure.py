import pytest

from potluck.coordinator.relay.trace import Hop
from potluck.coordinator.swarm.measure import Measure
from potluck.planning.cost import Footprint
from potluck.types import Span, Speed

SPAN = Span(0, 3)


def hop(
    compute_s: float,
    rows: int = 1,
    queue_s: float = 0.0,
    wire_s: float = 0.0,
    span: Span = SPAN,
    *,
    guessed: bool = False,
) -> Hop:
    received = queue_s + compute_s + wire_s
    return Hop(
        session=1,
        step=0,
        index=0,
        stages=1,
        node="n1",
        span=span,
        rows=rows,
        position=0,
        sent=0.0,
        received=received,
        queue_s=queue_s,
        compute_s=compute_s,
        guessed=guessed,
    )


def measured(*hops: Hop, sessions: int = 1) -> Measure:
    measure = Measure.of(Speed(0.01, 0.002))
    for one in hops * 200:
        measure.note(one, SPAN, sessions)
    return measure


def test_real_steps_take_the_place_of_what_the_node_said() -> None:
    measure = measured(hop(0.5, wire_s=0.2), hop(0.64, rows=64, wire_s=0.2))
    assert (measure.token_s, measure.row_s, measure.hop_s) == pytest.approx((0.5, 0.01, 0.2))


def test_one_step_is_not_believed() -> None:
    measure = Measure.of(Speed(0.01, 0.002))
    measure.note(hop(1.01), SPAN, 1)
    assert measure.token_s == pytest.approx(0.11)


def test_a_token_counts_with_its_queue_for_the_whole_span_and_by_the_sessions_that_share_the_node() -> None:
    assert measured(hop(0.1, queue_s=0.3), sessions=4).token_s == pytest.approx(0.1)
    assert measured(hop(0.1, span=Span(0, 1))).token_s == pytest.approx(0.2)


def test_a_token_through_a_part_of_the_span_counts_by_its_work_and_a_row_of_a_prompt_by_its_layers() -> None:
    measure = Measure.of(Speed(0.01, 0.002), sums=Footprint((1,) * 4, entry=9, head=4).sums)
    for one in [hop(0.1, span=Span(0, 1)), hop(0.64, rows=64, span=Span(0, 1))] * 200:
        measure.note(one, SPAN, 1)
    assert (measure.token_s, measure.row_s) == pytest.approx((0.4, 0.02))


def test_a_long_computation_is_remembered_for_a_while() -> None:
    measure = Measure.of(Speed(0.01, 0.002))
    assert measure.forward_s == pytest.approx(16 * 0.002)
    measure.note(hop(3.0, rows=64), SPAN, 1)  # of which it listens most of the time
    assert measure.forward_s == pytest.approx(0.75)
    measure.note(hop(3.0, rows=16), SPAN, 1)
    measure.note(hop(0.01), SPAN, 1)
    assert 2.0 < measure.forward_s <= 3.0
    for _ in range(100):
        measure.note(hop(0.01), SPAN, 1)
    assert measure.forward_s < 0.02


def test_guesses_that_wait_for_one_another_make_no_node_slow() -> None:
    token, prompt = hop(0.01, wire_s=0.2), hop(0.64, rows=64, wire_s=0.2)
    # All sent together, the second is read when the first has been computed, and then each waits for the one before.
    burst = [hop(0.01, queue_s=0.01 * place, wire_s=0.21, guessed=True) for place in range(15)]
    with_guesses, without = measured(prompt, token, *burst), measured(prompt, token)
    assert (with_guesses.token_s, with_guesses.row_s, with_guesses.hop_s) == (
        without.token_s,
        without.row_s,
        without.hop_s,
    )


def test_a_guess_blocks_a_node_as_long_as_a_token() -> None:
    assert measured(hop(0.01), hop(3.0, guessed=True)).forward_s == pytest.approx(3.0)


def test_a_node_cannot_have_taken_longer_than_it_took() -> None:
    claimed = Hop(
        session=1,
        step=0,
        index=0,
        stages=1,
        node="n1",
        span=SPAN,
        rows=1,
        position=0,
        sent=0.0,
        received=0.3,
        queue_s=1e9,
        compute_s=1e9,
    )
    measure = measured(claimed)
    assert (measure.token_s, measure.hop_s) == pytest.approx((0.3, 0.0), abs=1e-6)
    assert measure.forward_s <= 0.3


def test_a_row_of_a_prompt_is_never_taken_to_be_slower_than_a_token() -> None:
    measured_beside_others = Measure.of(Speed(0.01, 0.05))
    assert measured_beside_others == Measure.of(Speed(0.01, 0.01))
