from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.planning.cost import stage_seconds
from potluck.planning.routing import Server, choose_route, missing_layers
from potluck.types import Span, Speed, Stage


def server(name: str, first: int, last: int, decode_s: float = 1.0, sessions: int = 0) -> Server:
    return Server(name, Span(first, last), Speed(decode_s, decode_s), sessions)


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
    return sum(
        stage_seconds(known[stage.node].speed, known[stage.node].span, stage.span, known[stage.node].sessions)
        for stage in route
    )


@given(swarms())
def test_a_route_exists_only_where_nothing_is_missing_and_is_valid(case: tuple[int, list[Server]]) -> None:
    layers, servers = case
    route = choose_route(layers, servers)
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
    assert (choose_route(layers, servers) is not None) == covered


@given(swarms(most_layers=6, most_nodes=6))
def test_no_route_is_quicker(case: tuple[int, list[Server]]) -> None:
    layers, servers = case
    route = choose_route(layers, servers)
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
    route = choose_route(6, servers)
    assert route is not None
    assert [stage.node for stage in route] == nodes


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), max_size=8), st.integers(1, 30))
def test_missing_layers_are_those_in_no_span(pairs: list[tuple[int, int]], layers: int) -> None:
    spans = [Span(first, first + more) for first, more in pairs]
    expected = [layer for layer in range(layers) if not any(layer in span for span in spans)]
    assert missing_layers(layers, spans) == expected
