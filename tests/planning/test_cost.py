import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.planning.cost import RESERVE_BYTES, Footprint, stage_seconds
from potluck.types import Span, Speed

FOOTPRINT = Footprint((10, 20, 30), entry=1000, head=5000)


@pytest.mark.parametrize(
    ("span", "size"),
    [(Span(1, 1), 20), (Span(0, 0), 1010), (Span(0, 1), 1030), (Span(2, 2), 5030), (Span(0, 2), 6060)],
)
def test_only_the_ends_carry_embedding_and_head(span: Span, size: int) -> None:
    assert FOOTPRINT.of(span) == RESERVE_BYTES + size


seconds = st.floats(1e-6, 10)
spans = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda pair: Span(pair[0], sum(pair)))


@given(seconds, spans, st.integers(0, 50))
def test_less_of_a_span_is_quicker_and_more_sessions_are_slower(decode_s: float, span: Span, sessions: int) -> None:
    speed = Speed(decode_s, decode_s / 10)
    whole = stage_seconds(speed, span, span, sessions)
    assert stage_seconds(speed, span, Span(span.first, span.last - 1), sessions) < whole
    assert stage_seconds(speed, span, span, sessions + 1) > whole


@given(seconds, spans)
def test_two_half_stages_cost_more_than_one_whole_by_their_hop(decode_s: float, span: Span) -> None:
    speed, cut = Speed(decode_s, decode_s), (span.first + span.last) // 2
    halves = [Span(span.first, cut), Span(cut + 1, span.last)]
    assert sum(stage_seconds(speed, span, half, 0) for half in halves) > stage_seconds(speed, span, span, 0)
