import pytest
from msgspec import structs

from potluck.planning.cost import RESERVE_BYTES, Footprint, in_mib
from potluck.types import Span

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


def test_a_token_reads_only_the_active_weights() -> None:
    experts = structs.replace(CACHED, active=(4, 5, 6))
    assert [experts.work(Span(0, 1)), experts.work(Span(1, 2))] == [9, 5011]
    assert experts.of(Span(0, 2)) == CACHED.of(Span(0, 2))


@pytest.mark.parametrize(("span", "work"), [(Span(1, 1), 20), (Span(0, 1), 30), (Span(2, 2), 5030), (Span(0, 2), 5060)])
def test_a_token_reads_the_head_but_not_the_embedding(span: Span, work: int) -> None:
    assert FOOTPRINT.work(span) == work
