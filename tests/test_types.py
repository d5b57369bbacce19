from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import SpanError
from potluck.types import Span, even_spans, spans_of


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


@pytest.mark.parametrize("parts", [0, -1, 4])
def test_a_model_is_not_cut_into_more_spans_than_layers(parts: int) -> None:
    with pytest.raises(SpanError):
        even_spans(3, parts)


@given(st.sets(st.integers(0, 60)))
def test_spans_of_is_the_fewest_spans_of_these_layers(layers: set[int]) -> None:
    spans = spans_of(sorted(layers))
    assert [layer for span in spans for layer in range(span.first, span.last + 1)] == sorted(layers)
    assert len(spans) == sum(layer - 1 not in layers for layer in layers)
