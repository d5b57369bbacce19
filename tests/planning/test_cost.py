import pytest

from potluck.planning.cost import RESERVE_BYTES, Footprint, in_mib
from potluck.types import Span

FOOTPRINT = Footprint((10, 20, 30), entry=1000, head=5000)
CACHED = Footprint((10, 20, 30), entry=1000, head=5000, cache=7)


@pytest.mark.parametrize(
    ("span", "size"),
    [(Span(1, 1), 20), (Span(0, 0), 1010), (Span(0, 1), 1030), (Span(2, 2), 5030), (Span(0, 2), 6060)],
)
def test_only_the_ends_carry_embedding_and_head(span: Span, size: int) -> None:
    assert FOOTPRINT.of(span) == RESERVE_BYTES + size


@pytest.mark.parametrize(("needed", "mib"), [(0, 0), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2)])
def test_whoever_offers_the_mib_that_are_needed_offers_enough(needed: int, mib: int) -> None:
    assert in_mib(needed) == mib


@pytest.mark.parametrize("span", [Span(1, 1), Span(0, 1), Span(0, 2)])
def test_each_layer_takes_a_cache(span: Span) -> None:
    assert CACHED.of(span) == FOOTPRINT.of(span) + 7 * len(span)
    assert CACHED.work(span) == FOOTPRINT.work(span)


@pytest.mark.parametrize(("span", "work"), [(Span(1, 1), 20), (Span(0, 1), 30), (Span(2, 2), 5030), (Span(0, 2), 5060)])
def test_a_token_reads_the_head_but_not_the_embedding(span: Span, work: int) -> None:
    assert FOOTPRINT.work(span) == work
