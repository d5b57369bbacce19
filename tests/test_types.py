from contextlib import suppress
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import SpanError
from potluck.types import Cuts, Span, even_spans, spans_of


@pytest.mark.parametrize(
    ("text", "span"),
    [("0", Span(0, 0)), ("12", Span(12, 12)), ("12-15", Span(12, 15)), (" 3-3\n", Span(3, 3)), ("007", Span(7, 7))],
)
def test_a_span_is_written_as_one_layer_or_two(text: str, span: Span) -> None:
    assert Span.parse(text) == span


@pytest.mark.parametrize(
    "text", ["", " ", "-", "-3", "3-", "5-2", "1-2-3", "1 - 2", "a", "1.5", "+1", "0x1", "1,2", "9" * 7, "1\x00"]
)
def test_anything_else_is_no_span(text: str) -> None:
    with pytest.raises(SpanError, match="is not a span: write it as 12 or 12-15"):
        Span.parse(text)


@given(st.text())
def test_parsing_raises_nothing_but_span_errors(text: str) -> None:
    with suppress(SpanError):
        span = Span.parse(text)
        assert 0 <= span.first <= span.last


@given(st.integers(0, 999_999), st.integers(0, 999_999))
def test_a_span_reads_back_as_it_is_written(one: int, other: int) -> None:
    span = Span(min(one, other), max(one, other))
    assert Span.parse(str(span)) == span
    assert len(span) == span.last - span.first + 1


@pytest.mark.parametrize(("first", "last"), [(-1, 0), (2, 1), (-2, -1)])
def test_an_impossible_span_cannot_be_made(first: int, last: int) -> None:
    with pytest.raises(SpanError):
        Span(first, last)


def test_within_names_the_layers_of_the_model() -> None:
    assert Span(0, 29).within(30) == Span(0, 29)
    with pytest.raises(SpanError, match="Span 12-30 is outside the model: its layers are 0-29"):
        Span(12, 30).within(30)


def test_a_span_contains_its_layers_only() -> None:
    assert [layer in Span(2, 4) for layer in range(6)] == [False, False, True, True, True, False]
    assert "3" not in Span(2, 4)


@given(st.integers(1, 200), st.data())
def test_even_spans_cover_all_layers_once(layers: int, data: st.DataObject) -> None:
    spans = even_spans(layers, data.draw(st.integers(1, layers)))
    assert [layer for span in spans for layer in range(span.first, span.last + 1)] == list(range(layers))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


@st.composite
def random_cuts(draw: st.DrawFn, most: int = 30) -> Cuts:
    layers = draw(st.integers(1, most))
    inner = draw(st.sets(st.integers(1, layers)))
    return Cuts(tuple(sorted({0, layers, *inner})), draw(st.frozensets(st.integers(1, layers), max_size=4)))


def all_spans(layers: int) -> list[Span]:
    return [Span(first, last) for first in range(layers) for last in range(first, layers)]


@given(random_cuts())
def test_a_span_lies_between_two_points_and_has_no_forbidden_length(cuts: Cuts) -> None:
    for span in all_spans(cuts.layers):
        ends = span.first in cuts.points and span.last + 1 in cuts.points
        allowed = ends and (len(span) not in cuts.forbidden or len(span) == cuts.layers)
        assert cuts.allows(span) == allowed == (span in cuts.spans())
        if allowed:
            assert cuts.check(span) is span


@given(random_cuts(), st.data())
def test_a_wrong_span_is_refused_with_the_nearest_right_ones(cuts: Cuts, data: st.DataObject) -> None:
    wrong = data.draw(st.sampled_from(all_spans(cuts.layers)))
    near = cuts.nearest(wrong)
    assert 1 <= len(near) <= 2
    away = {span: abs(span.first - wrong.first) + abs(span.last - wrong.last) for span in cuts.spans()}
    assert sorted(map(away.__getitem__, near)) == sorted(away.values())[:2]
    if not cuts.allows(wrong):
        take = " or ".join(map(str, near))
        with pytest.raises(SpanError, match=f"^Span {wrong} cannot be cut out of this model: take {take} instead.$"):
            cuts.check(wrong)


def test_the_nearest_spans_are_as_long_as_what_was_asked_for() -> None:
    cuts = Cuts((0, 1, 3, 5, 8))
    assert cuts.nearest(Span(2, 3)) == [Span(1, 2), Span(3, 4)]
    assert cuts.nearest(Span(6, 7)) == [Span(3, 7), Span(5, 7)]
    assert Cuts((0, 8)).nearest(Span(2, 3)) == [Span(0, 7)]
    with pytest.raises(SpanError, match="Span 6-8 is outside the model: its layers are 0-7"):
        cuts.check(Span(6, 8))


@given(random_cuts(most=14), st.integers(-1, 16), st.data())
def test_a_model_is_split_wherever_that_is_possible(cuts: Cuts, parts: int, data: st.DataObject) -> None:
    """As evenly as possible, whether all layers cost the same, each its own, or the head something besides."""
    more = data.draw(st.sampled_from([0, 1]))
    costs = data.draw(
        st.just([]) | st.lists(st.integers(0, 9), min_size=cuts.layers + more, max_size=cuts.layers + more)
    )
    inner = [point for point in cuts.points if 0 < point < cuts.layers]
    ways = [(0, *chosen, cuts.layers) for chosen in combinations(inner, parts - 1)] if parts > 0 else []
    splits = [[Span(first, end - 1) for first, end in pairwise(way)] for way in ways]
    right = [split for split in splits if all(map(cuts.allows, split))]
    if not right:
        with pytest.raises(SpanError, match=f"{cuts.layers} layers cannot be cut into {parts} spans"):
            cuts.split(parts, costs)
        return

    def uneven(split: list[Span]) -> tuple[int, int]:
        sums = [sum(costs[span.first : span.last + 1]) if costs else len(span) for span in split]
        sums[-1] += sum(costs[cuts.layers :])
        return max(sums), sum(each**2 for each in sums)

    assert cuts.split(parts, costs) in right
    assert uneven(cuts.split(parts, costs)) == min(map(uneven, right))


@given(st.integers(1, 24), st.data())
def test_what_may_be_cut_anywhere_is_split_evenly(layers: int, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, layers))
    assert Cuts.anywhere(layers).split(parts) == even_spans(layers, parts)
    assert Cuts.anywhere(layers).spans() == all_spans(layers)


@pytest.mark.parametrize("parts", [0, -1, 4])
def test_a_model_is_not_cut_into_more_spans_than_layers(parts: int) -> None:
    with pytest.raises(SpanError):
        even_spans(3, parts)


@given(st.sets(st.integers(0, 60)))
def test_spans_of_is_the_fewest_spans_of_these_layers(layers: set[int]) -> None:
    spans = spans_of(sorted(layers))
    assert [layer for span in spans for layer in range(span.first, span.last + 1)] == sorted(layers)
    assert len(spans) == sum(layer - 1 not in layers for layer in layers)
