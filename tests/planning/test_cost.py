import pytest
from msgspec import structs

from potluck.errors import SpanError
from potluck.planning.cost import RESERVE_BYTES, Footprint, in_mib
from potluck.types import Cuts, Span

FOOTPRINT = Footprint((10, 20, 30), entry=1000, head=5000)
CACHED = Footprint((10, 20, 30), entry=1000, head=5000, cache=(7, 0, 3))


@pytest.mark.parametrize(
    ("span", "size"),
    [(Span(1, 1), 20), (Span(0, 0), 1010), (Span(0, 1), 1030), (Span(2, 2), 5030), (Span(0, 2), 6060)],
)
def test_only_the_ends_carry_embedding_and_head(span: Span, size: int) -> None:
    assert FOOTPRINT.of(span) == RESERVE_BYTES + size


@pytest.mark.parametrize(("needed", "mib"), [(0, 0), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2)])
def test_whoever_offers_the_mib_that_are_needed_offers_enough(needed: int, mib: int) -> None:
    assert in_mib(needed) == mib


@pytest.mark.parametrize(("span", "cache"), [(Span(1, 1), 0), (Span(0, 1), 7), (Span(1, 2), 3), (Span(0, 2), 10)])
def test_each_layer_takes_its_own_cache(span: Span, cache: int) -> None:
    assert CACHED.of(span) == FOOTPRINT.of(span) + cache
    assert CACHED.work(span) == FOOTPRINT.work(span)


@pytest.mark.parametrize(("span", "more"), [(Span(1, 1), 8), (Span(0, 1), 8), (Span(0, 2), 10)])
def test_what_loading_takes_is_free_again_for_sessions(span: Span, more: int) -> None:
    assert structs.replace(CACHED, staged=8).of(span) == FOOTPRINT.of(span) + more


@pytest.mark.parametrize(("span", "more"), [(Span(1, 1), 2), (Span(0, 1), 4), (Span(2, 2), 4), (Span(0, 2), 0)])
def test_a_span_has_something_in_place_of_the_ends_that_it_lacks(span: Span, more: int) -> None:
    assert structs.replace(FOOTPRINT, stub=4, middle=2).of(span) == FOOTPRINT.of(span) + more


def test_a_token_is_as_much_work_as_the_active_weights() -> None:
    experts = structs.replace(CACHED, active=(4, 5, 6, 50))
    assert [experts.work(Span(0, 1)), experts.work(Span(1, 2))] == [9, 61]
    assert experts.of(Span(0, 2)) == CACHED.of(Span(0, 2))


@pytest.mark.parametrize(("span", "work"), [(Span(1, 1), 20), (Span(0, 1), 30), (Span(2, 2), 5030), (Span(0, 2), 5060)])
def test_a_token_reads_the_head_but_not_the_embedding(span: Span, work: int) -> None:
    assert FOOTPRINT.work(span) == work


@pytest.mark.parametrize(
    ("head", "parts", "ends"),
    [(0, 2, [5, 11]), (4, 2, [7, 11]), (4, 3, [4, 10, 11]), (40, 2, [10, 11]), (40, 4, [3, 7, 10, 11]), (4, 1, [11])],
)
def test_spans_that_take_equally_long_have_fewer_layers_where_the_head_is(
    head: int, parts: int, ends: list[int]
) -> None:
    spans = Footprint((7,) * 12, entry=999, head=7 * head).share(parts)
    assert [span.last for span in spans] == ends


def test_a_model_that_is_cut_at_few_places_is_shared_as_evenly_as_these_allow() -> None:
    footprint = Footprint((7,) * 12, entry=0, head=28, cut=Cuts((0, 4, 8, 10, 12)))
    assert footprint.share(2) == [Span(0, 7), Span(8, 11)]
    assert footprint.share(3) == [Span(0, 3), Span(4, 9), Span(10, 11)]
    with pytest.raises(SpanError, match="12 layers cannot be cut into 5 spans"):
        footprint.share(5)
