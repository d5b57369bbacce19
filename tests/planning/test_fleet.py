"""Where a request of a fleet is served, and which node goes from one coordinator to another."""

from hypothesis import given
from hypothesis import strategies as st

from potluck.planning.fleet import Gift, Holding, Load, better_places, gift
from potluck.types import Span

HERE = Load(covered=True, waiting=0, streams=3)
FREE = Load(covered=True, waiting=0, streams=0)
BUSY = Load(covered=True, waiting=9, streams=3)
BROKEN = Load(covered=False, waiting=0, streams=0)


def test_request_stays_where_there_is_little_to_do() -> None:
    assert better_places(HERE, [FREE, BUSY, BROKEN]) == []


def test_request_goes_where_there_is_much_less_to_do() -> None:
    assert better_places(BUSY, [BROKEN, HERE, FREE]) == [2, 1]
    assert better_places(Load(True, 4, 6), [Load(True, 2, 1)]) == []
    assert better_places(Load(True, 5, 6), [Load(True, 2, 1)]) == [0]
    assert better_places(Load(True, 0, 4), [FREE]) == []
    assert better_places(Load(True, 0, 5), [FREE]) == [0]


def test_request_leaves_a_model_that_lacks_layers_for_one_that_is_covered() -> None:
    assert better_places(BROKEN, [BUSY, BROKEN]) == [0]
    assert better_places(BROKEN, [BROKEN]) == []


def test_request_for_a_model_that_is_not_here_goes_to_whoever_has_it() -> None:
    assert better_places(None, [BROKEN, BUSY, FREE]) == [2, 1, 0]
    assert better_places(None, []) == []


def holding(*counts: int, name: bytes = b"a", loading: bool = False) -> Holding:
    return Holding(counts, loading, name)


def test_complete_swarm_gives_what_it_has_twice() -> None:
    here = holding(2, 2, 1, 1)
    spans = {"n1": Span(0, 1), "n2": Span(0, 1), "n3": Span(2, 3)}
    assert gift(here, spans, [holding(0, 0, 1, 1, name=b"b")]) == Gift("n1", 0)
    assert gift(here, spans, [holding(0, 0, 0, 1, name=b"b")]) is None  # it would lack layers all the same
    assert gift(here, spans, [holding(1, 1, 1, 1, name=b"b")]) is None
    assert gift(here, {"n3": Span(2, 3)}, [holding(0, 0, 1, 1, name=b"b")]) is None  # only n3 may go, which is needed


def test_nothing_is_given_while_nodes_load() -> None:
    spans = {"n1": Span(0, 1)}
    assert gift(holding(2, 2, loading=True), spans, [holding(0, 0, name=b"b")]) is None
    assert gift(holding(2, 2), spans, [holding(0, 0, name=b"b", loading=True)]) is None


def test_incomplete_swarm_gives_itself_up_for_the_one_that_lacks_least() -> None:
    here, spans = holding(1, 0, 0, 0), {"n1": Span(0, 0)}
    others = [holding(0, 0, 0, 0, name=b"b"), holding(0, 1, 1, 0, name=b"c")]
    assert gift(here, spans, others) == Gift("n1", 1)
    assert gift(others[1], {"n2": Span(1, 2)}, [here, others[0]]) is None  # it gets the other's node


def test_incomplete_swarm_waits_for_one_that_can_complete_it() -> None:
    here, spans = holding(1, 0), {"n1": Span(0, 0)}
    assert gift(here, spans, [holding(2, 2, name=b"b")]) is None
    assert gift(here, spans, [holding(1, 1, name=b"b")]) == Gift("n1", 0)


COUNTS = st.lists(st.integers(0, 3), min_size=4, max_size=4)


@given(COUNTS, COUNTS)
def test_two_coordinators_never_give_each_other_nodes_at_once(one: list[int], other: list[int]) -> None:
    """Otherwise nodes would go back and forth for ever."""
    here, there = Holding(one, False, b"a"), Holding(other, False, b"b")
    spans = {f"n{layer}": Span(layer, layer) for layer in range(4)}
    mine = {node: span for node, span in spans.items() if one[span.first]}
    theirs = {node: span for node, span in spans.items() if other[span.first]}
    assert gift(here, mine, [there]) is None or gift(there, theirs, [here]) is None


@given(COUNTS, COUNTS)
def test_gift_never_uncovers_a_complete_swarm(one: list[int], other: list[int]) -> None:
    spans = {f"n{layer}": Span(layer, layer) for layer in range(4) if one[layer]}
    found = gift(Holding(one, False, b"a"), spans, [Holding(other, False, b"b")])
    if found is not None and all(one):
        assert one[spans[found.node].first] > 1
