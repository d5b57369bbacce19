import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.placement import choose_span
from potluck.types import Span

FLAT = Footprint((100,) * 10, entry=0, head=0)


def memory(layers: int) -> int:
    return RESERVE_BYTES + 100 * layers


@pytest.mark.parametrize(
    ("served", "layers", "span"),
    [
        ([0] * 10, 4, Span(0, 3)),
        ([1] * 4 + [0] * 6, 4, Span(4, 7)),
        ([2, 2, 1, 1, 2, 2, 2, 2, 2, 2], 2, Span(2, 3)),
        ([0] * 10, 10, Span(0, 9)),
        ([0] * 10, 99, Span(0, 9)),
        ([1, 1, 1, 1, 0, 1, 1, 1, 1, 1], 1, Span(4, 4)),
    ],
)
def test_the_least_served_layers_are_taken(served: list[int], layers: int, span: Span) -> None:
    assert choose_span(served, FLAT, memory(layers)) == span


@pytest.mark.parametrize("offered", [memory(1) - 1, 0, -1, -(2**70)])
def test_too_little_memory_for_a_layer_gives_none(offered: int) -> None:
    assert choose_span([0] * 10, FLAT, offered) is None


def test_the_ends_need_room_for_their_tensors() -> None:
    footprint = Footprint((100,) * 4, entry=500, head=500)
    assert choose_span([0] * 4, footprint, memory(2)) == Span(1, 2)
    assert choose_span([0, 1, 1, 0], footprint, memory(1)) == Span(1, 1)  # the ends do not fit, however needed
    assert choose_span([0, 1, 1, 0], footprint, memory(6)) == Span(0, 0)


@st.composite
def swarms(draw: st.DrawFn) -> tuple[list[int], Footprint, int]:
    layers = draw(st.integers(1, 12))
    served = draw(st.lists(st.integers(0, 3), min_size=layers, max_size=layers))
    sizes = draw(st.lists(st.integers(1, 50), min_size=layers, max_size=layers))
    footprint = Footprint(tuple(sizes), draw(st.integers(0, 100)), draw(st.integers(0, 100)))
    return served, footprint, RESERVE_BYTES + draw(st.integers(0, 400))


@given(swarms())
def test_the_choice_fits_and_no_longer_span_of_its_start_does(case: tuple[list[int], Footprint, int]) -> None:
    served, footprint, offered = case
    span = choose_span(served, footprint, offered)
    fitting = [
        Span(first, last)
        for first in range(len(served))
        for last in range(first, len(served))
        if footprint.of(Span(first, last)) <= offered
    ]
    if span is None:
        assert fitting == []
    else:
        assert span in fitting
        assert span.last == max(other.last for other in fitting if other.first == span.first)


@given(swarms())
def test_the_first_gap_is_filled_from_its_beginning_as_far_as_memory_goes(
    case: tuple[list[int], Footprint, int],
) -> None:
    served, footprint, offered = case
    span, first = choose_span(served, footprint, offered), served.index(min(served))
    if any(footprint.of(Span(first, last)) <= offered for last in range(first, len(served))):
        assert span is not None
        assert first in span
        for last in range(first, len(served)):
            if set(served[first : last + 1]) == {min(served)} and footprint.of(Span(first, last)) <= offered:
                assert last in span


@given(st.integers(1, 30), st.integers(1, 10))
def test_newcomers_of_one_size_soon_cover_all(layers: int, each: int) -> None:
    served = [0] * layers
    footprint = Footprint((100,) * layers, 0, 0)
    for _ in range(-(-layers // each)):
        span = choose_span(served, footprint, memory(each))
        assert span is not None
        for layer in range(span.first, span.last + 1):
            served[layer] += 1
    assert min(served) == 1
