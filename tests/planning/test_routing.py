from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from potluck.planning.cost import EVEN, Footprint
from potluck.planning.routing import Server, choose_route, missing_layers, up_to
from potluck.types import Cuts, Span, Stage


def server(
    name: str, first: int, last: int, token_s: float = 1.0, sessions: int = 0, twin: str = "", hop_s: float = 0.001
) -> Server:
    return Server(name, Span(first, last), token_s, hop_s, sessions, twin)


def whole(layers: int) -> Span:
    return Span(0, layers - 1)


@st.composite
def cut_swarms(draw: st.DrawFn) -> tuple[Cuts, list[Server]]:
    """Servers whose spans can be cut out of a model. Each part between two points has one at least."""
    layers = draw(st.integers(1, 12))
    points = draw(st.sets(st.integers(0, layers))) | {0, layers}
    cuts = Cuts(tuple(sorted(points)))
    parts = [Span(first, end - 1) for first, end in pairwise(cuts.points)]
    spans = [*parts, *draw(st.lists(st.sampled_from(cuts.spans()), max_size=8))]
    seconds = draw(st.lists(st.integers(1, 50), min_size=len(spans), max_size=len(spans)))
    return cuts, [
        server(f"n{number}", span.first, span.last, token_s / 8)
        for number, (span, token_s) in enumerate(zip(spans, seconds, strict=True))
    ]


@st.composite
def swarms(draw: st.DrawFn, most_layers: int = 12, most_nodes: int = 8) -> tuple[int, list[Server]]:
    layers = draw(st.integers(1, most_layers))
    servers = []
    for number in range(draw(st.integers(0, most_nodes))):
        first = draw(st.integers(0, layers - 1))
        seconds = draw(st.integers(1, 50)) / 8
        servers.append(
            server(f"n{number}", first, draw(st.integers(first, layers - 1)), seconds, draw(st.integers(0, 3)))
        )
    return layers, servers


def all_routes(layers: int, servers: Sequence[Server], start: int = 0) -> Iterator[tuple[Stage, ...]]:
    """Every valid route, the slow way."""
    if start == layers:
        yield ()
    for one in servers:
        if one.span.first == start:
            for last in range(start, one.span.last + 1):
                for rest in all_routes(layers, servers, last + 1):
                    yield (Stage(one.node, Span(start, last)), *rest)


def cost(route: Sequence[Stage], servers: Sequence[Server]) -> float:
    known = {one.node: one for one in servers}
    return sum(known[stage.node].seconds(len(stage.span)) for stage in route)


@given(swarms())
def test_a_route_exists_only_where_nothing_is_missing_and_is_valid(case: tuple[int, list[Server]]) -> None:
    layers, servers = case
    route = choose_route(whole(layers), servers)
    if route is None:
        return
    assert missing_layers(layers, [one.span for one in servers]) == []
    spans = {one.node: one.span for one in servers}
    assert [layer for stage in route for layer in range(stage.span.first, stage.span.last + 1)] == list(range(layers))
    for stage in route:
        assert stage.span.first == spans[stage.node].first
        assert stage.span.last <= spans[stage.node].last
    assert len({stage.node for stage in route}) == len(route)


@given(swarms())
def test_where_all_layers_are_covered_a_route_exists(case: tuple[int, list[Server]]) -> None:
    layers, servers = case
    covered = not missing_layers(layers, [one.span for one in servers])
    assert (choose_route(whole(layers), servers) is not None) == covered


@given(cut_swarms(), st.data())
def test_a_route_goes_on_only_where_the_model_may_be_cut(case: tuple[Cuts, list[Server]], data: st.DataObject) -> None:
    """A stage may end inside its node's span. The next one begins where its own node's span begins."""
    cuts, servers = case
    route = choose_route(whole(cuts.layers), servers)
    assert route is not None
    assert {stage.span.first for stage in route} <= set(cuts.points)
    lost = data.draw(st.sampled_from(route))
    others = [one for one in servers if one.node != lost.node]
    heirs = choose_route(lost.span, others) or ()
    assert {stage.span.first for stage in heirs} <= set(cuts.points)
    assert {stage.span.last + 1 for stage in heirs} <= set(cuts.points)
    last = data.draw(st.integers(0, cuts.layers - 1))
    within = up_to(last, route)
    assert within[-1].span.last == last
    assert {stage.span.first for stage in within} <= set(cuts.points)


@given(swarms(most_layers=6, most_nodes=6))
def test_no_route_is_quicker(case: tuple[int, list[Server]]) -> None:
    layers, servers = case
    route = choose_route(whole(layers), servers)
    everything = [cost(other, servers) for other in all_routes(layers, servers)]
    if route is None:
        assert everything == []
    else:
        assert cost(route, servers) == pytest.approx(min(everything))


@pytest.mark.parametrize(
    ("servers", "nodes"),
    [
        ([server("a", 0, 5)], ["a"]),
        ([server("a", 0, 2), server("b", 3, 5)], ["a", "b"]),
        ([server("a", 0, 5), server("b", 0, 2), server("c", 3, 5)], ["a"]),
        ([server("a", 0, 5, 9.0), server("b", 0, 2), server("c", 3, 5)], ["b", "c"]),
        ([server("a", 0, 5, sessions=3), server("b", 0, 5)], ["b"]),
        ([server("a", 0, 4), server("b", 3, 5)], ["a", "b"]),
        ([server("a", 0, 1), server("b", 1, 5)], ["a", "b"]),
    ],
)
def test_the_quick_and_the_idle_are_preferred(servers: list[Server], nodes: list[str]) -> None:
    route = choose_route(whole(6), servers)
    assert route is not None
    assert [stage.node for stage in route] == nodes


def test_a_part_without_the_head_takes_as_long_as_its_work() -> None:
    """Most of the time of `a` goes into the head, so that its first half is quicker than `b`."""
    both, first, rest = server("a", 0, 5, 1.0), server("b", 0, 2, 0.3), server("c", 3, 5, 0.1)
    for sums, node in [(EVEN, "b"), (Footprint((1,) * 6, entry=0, head=8).sums, "a")]:
        route = choose_route(whole(6), [structs.replace(both, sums=sums), first, rest])
        assert route is not None
        assert [stage.node for stage in route] == [node, "c"]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=8), st.integers(1, 30))
def test_missing_layers_are_those_in_no_span(pairs: list[tuple[int, int]], layers: int) -> None:
    spans = [Span(first, first + more) for first, more in pairs]
    expected = [layer for layer in range(layers) if not any(layer in span for span in spans)]
    assert missing_layers(layers, spans) == expected


seconds = st.floats(1e-6, 10)
spans = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda pair: Span(pair[0], sum(pair)))


@given(seconds, spans, st.integers(0, 50))
def test_less_of_a_span_is_quicker_and_more_sessions_are_slower(token_s: float, span: Span, sessions: int) -> None:
    one, more = (server("a", span.first, span.last, token_s, count) for count in (sessions, sessions + 1))
    assert one.seconds(len(span) - 1) < one.seconds(len(span)) < more.seconds(len(span))


@given(seconds, spans)
def test_two_half_stages_cost_more_than_one_whole_by_their_hop(token_s: float, span: Span) -> None:
    one, cut = server("a", span.first, span.last, token_s), (span.first + span.last) // 2
    halves = [Span(span.first, cut), Span(cut + 1, span.last)]
    assert sum(one.seconds(len(half)) for half in halves) > one.seconds(len(span))


def test_a_twin_is_preferred_to_a_quicker_stranger_and_a_stranger_to_none() -> None:
    quick, twin = server("quick", 2, 5, twin="x"), server("twin", 2, 5, 9.0, twin="y")
    part = Span(2, 4)
    assert choose_route(part, [quick, twin]) == (Stage("quick", part, "x"),)
    assert choose_route(part, [quick, twin], {"y"}) == (Stage("twin", part, "y"),)
    assert choose_route(part, [quick], {"y"}) == (Stage("quick", part, "x"),)


def test_a_part_is_routed_by_nodes_that_begin_inside_it() -> None:
    servers = [server("a", 0, 5), server("b", 2, 3), server("c", 4, 9), server("d", 1, 9)]
    assert choose_route(Span(2, 5), servers) == (Stage("b", Span(2, 3)), Stage("c", Span(4, 5)))
    assert choose_route(Span(3, 5), servers) is None


def test_a_distant_node_costs_its_round_trips() -> None:
    near, far = server("near", 0, 5, 1.2), server("far", 0, 5, hop_s=0.3)
    route = choose_route(whole(6), [near, far])
    assert route is not None
    assert route[0].node == "near"


def test_a_route_may_be_cut_after_any_layer() -> None:
    route = (Stage("a", Span(0, 1), "twin"), Stage("b", Span(2, 5)))
    assert up_to(0, route) == (Stage("a", Span(0, 0), "twin"),)
    assert up_to(1, route) == route[:1]
    assert up_to(3, route) == (route[0], Stage("b", Span(2, 3)))
    assert up_to(5, route) == route
