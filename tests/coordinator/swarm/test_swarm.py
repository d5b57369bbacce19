from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.swarm.events import Admit, BecameReady, Break, Changed, Joined, Left, Progressed, Refuse
from potluck.coordinator.swarm.kv_budget import Mended
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.status import swarm_status
from potluck.errors import Unavailable
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.planning.routing import Server, choose_route
from potluck.types import Capacity, Cuts, NodeState, Span, Speed, Stage
from potluck.wire.messages import Hello, Ready

LAYERS = 6
DIGEST = "d" * 64


def make_swarm(cut: Cuts | None = None) -> Swarm:
    return Swarm(DIGEST, Footprint((1 << 20,) * LAYERS, 0, 0, cut=cut))


def hello(
    span: Span | None = None, model: str = "", memory: int = 1 << 40, name: str = "anna", movable: bool = False
) -> Hello:
    return Hello(name, "0.1", model, span, memory, 4, movable)


def ready(positions: int = 100, sessions: int = 8, decode_s: float = 0.01) -> Ready:
    return Ready(Capacity(sessions, positions, 576), Speed(decode_s, decode_s / 10), "twin", "plain")


def join(swarm: Swarm, node: str, first: int, last: int, **capacity: Any) -> None:
    swarm.handle(Joined(node, hello(Span(first, last), name=node.upper())))
    swarm.handle(BecameReady(node, ready(**capacity)))


def test_a_node_gets_the_span_it_asks_for() -> None:
    swarm = make_swarm()
    assert swarm.handle(Joined("n1", hello(Span(2, 3), DIGEST))) == [Admit("n1", Span(2, 3))]
    assert swarm.nodes["n1"].state is NodeState.LOADING


def test_without_a_span_the_least_served_layers_that_fit_are_given() -> None:
    swarm, memory = make_swarm(), RESERVE_BYTES + (3 << 20)
    assert swarm.handle(Joined("n1", hello(memory=memory))) == [Admit("n1", Span(0, 2))]
    # The first is still loading, and counts: two that come together must not take the same layers.
    assert swarm.handle(Joined("n2", hello(memory=memory))) == [Admit("n2", Span(3, 5))]


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (hello(model="e" * 64), "Your model has the hash eeeeeeeeeeeeeeee, this swarm serves dddddddddddddddd."),
        (hello(Span(4, 6)), "Span 4-6 is outside the model: its layers are 0-5."),
        (hello(Span(10**9, 10**9)), "Span 1000000000 is outside the model: its layers are 0-5."),
        (hello(memory=RESERVE_BYTES), "Even the smallest span, 0, needs 257 MiB of memory; you offer 256."),
        (hello(memory=-1), "Even the smallest span, 0, needs 257 MiB of memory; you offer -1."),
    ],
)
def test_a_node_that_does_not_fit_is_refused_with_the_reason(greeting: Hello, reason: str) -> None:
    swarm = make_swarm()
    assert swarm.handle(Joined("n1", greeting)) == [Refuse("n1", reason)]
    assert swarm.nodes == {}
    assert swarm.handle(Left("n1")) == []


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (hello(Span(1, 3)), "Span 1-3 cannot be cut out of this model: take 0-3 or 2-3 instead."),
        (hello(Span(2, 2)), "Span 2 cannot be cut out of this model: take 0-1 or 2-3 instead."),
        (hello(Span(4, 6)), "Span 4-6 is outside the model: its layers are 0-5."),
        (hello(memory=257 << 20), "Even the smallest span, 0-1, needs 258 MiB of memory; you offer 257."),
        (
            hello(Span(2, 5), memory=RESERVE_BYTES + (3 << 20)),
            "Layers 2-5 need 260 MiB of memory; you offer 259. Serve fewer layers, or offer more with --memory.",
        ),
    ],
)
def test_a_node_is_refused_where_the_model_cannot_be_cut(greeting: Hello, reason: str) -> None:
    swarm = make_swarm(Cuts((0, 2, 4, 6)))
    assert swarm.handle(Joined("n1", greeting)) == [Refuse("n1", reason)]
    assert swarm.nodes == {}


def with_card(greeting: Hello, mebibytes: int) -> Hello:
    return msgspec.structs.replace(greeting, gpu_memory=mebibytes << 20)


def test_a_graphics_card_counts_beside_the_memory() -> None:
    footprint = Footprint((64 << 20,) * 6, 0, 0, offloads=True)
    swarm, memory = Swarm(DIGEST, footprint), RESERVE_BYTES + (64 << 20)
    assert swarm.handle(Joined("n1", hello(memory=memory))) == [Admit("n1", Span(0, 0))]
    [admitted] = swarm.handle(Joined("n2", with_card(hello(memory=memory), 128 + 4 * 64)))
    assert admitted == Admit("n2", Span(1, 5))
    [refused] = swarm.handle(Joined("n3", with_card(hello(Span(0, 5), memory=memory), 128 + 3 * 64)))
    reason = "Layers 0-5 need 448 MiB of memory beside your graphics card; you offer 320."
    assert refused == Refuse("n3", f"{reason} Serve fewer layers, or offer more with --memory.")
    [refused] = swarm.handle(Joined("n4", with_card(hello(memory=RESERVE_BYTES - 1), 512)))
    reason = "Even the smallest span, 0, needs 256 MiB of memory; you offer 255, and 512 of graphics cards."
    assert refused == Refuse("n4", reason)


def test_the_coordinator_assigns_only_spans_that_can_be_cut_out() -> None:
    swarm, memory = make_swarm(Cuts((0, 2, 4, 6))), RESERVE_BYTES + (3 << 20)
    spans = []
    for number in range(3):
        [admitted] = swarm.handle(Joined(f"n{number}", hello(memory=memory)))
        assert isinstance(admitted, Admit)
        spans.append(admitted.span)
    assert spans == [Span(0, 1), Span(2, 3), Span(4, 5)]


@pytest.mark.parametrize(
    ("held", "memory"),
    [(Span(1, 2), 1 << 40), (Span(4, 9), 1 << 40), (Span(0, 5), RESERVE_BYTES + (4 << 20))],
    ids=["cannot be cut out", "outside", "too large"],
)
def test_a_node_that_holds_what_is_wrong_now_gets_other_layers_unless_its_owner_chose_them(
    held: Span, memory: int
) -> None:
    swarm = make_swarm(Cuts((0, 2, 4, 6)))
    join(swarm, "n1", 0, 1)
    [admitted] = swarm.handle(Joined("n2", hello(held, memory=memory, movable=True)))
    assert admitted in (Admit("n2", Span(0, 5)), Admit("n2", Span(2, 5)))
    [refused] = swarm.handle(Joined("n3", hello(held, memory=memory)))
    assert isinstance(refused, Refuse)


def test_a_loading_node_serves_nothing_yet() -> None:
    swarm = make_swarm()
    swarm.handle(Joined("n1", hello(Span(0, 5))))
    assert swarm.handle(Progressed("n1", 0.5)) == []
    assert swarm.nodes["n1"].fraction == 0.5
    assert swarm.served() == [0] * LAYERS
    assert swarm.missing() == [Span(0, 5)]
    assert swarm.handle(BecameReady("n1", ready())) == [Changed()]
    assert swarm.served() == [1] * LAYERS
    assert swarm.missing() == []


def test_ready_nodes_are_counted_at_each_layer_as_they_come_and_go() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 3)
    assert swarm.served() == [1, 1, 1, 1, 0, 0]
    join(swarm, "n2", 2, 5)
    assert swarm.served() == [1, 1, 2, 2, 1, 1]
    swarm.handle(Left("n1"))
    assert swarm.served() == [0, 0, 1, 1, 1, 1]
    assert swarm.missing() == [Span(0, 1)]


def test_uncovered_layers_are_named() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 1, 2)
    with pytest.raises(Unavailable, match=r"No node serves layers 0, 3-5 now\."):
        swarm.kv_budget.reserve(1, 10)


def test_a_session_has_its_positions_on_every_stage() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 2)
    join(swarm, "n2", 3, 5)
    assert swarm.kv_budget.reserve(1, 60) == (Stage("n1", Span(0, 2), "twin"), Stage("n2", Span(3, 5), "twin"))
    assert [node.reserved for node in swarm.nodes.values()] == [{1: 60}, {1: 60}]
    assert swarm.kv_budget.reserve(2, 60) is None
    assert [node.reserved for node in swarm.nodes.values()] == [{1: 60}, {1: 60}]
    assert swarm.release(1) == [Changed()]
    assert swarm.kv_budget.reserve(2, 60) is not None


def test_a_full_table_of_sessions_is_no_room_either() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 5, sessions=1)
    assert swarm.kv_budget.reserve(1, 1) is not None
    assert swarm.kv_budget.reserve(2, 1) is None


def test_a_second_node_takes_what_the_first_has_no_room_for() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 5)
    join(swarm, "n2", 0, 5)
    routes = [swarm.kv_budget.reserve(session, 80) for session in (1, 2, 3)]
    assert [route and route[0].node for route in routes] == ["n1", "n2", None]


def test_what_no_node_could_ever_hold_is_refused_at_once() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 5, positions=99)
    with pytest.raises(Unavailable, match="can hold 100 positions"):
        swarm.kv_budget.reserve(1, 100)


def test_a_node_that_leaves_breaks_its_sessions_and_no_others() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 2)
    join(swarm, "n2", 3, 5)
    join(swarm, "n3", 3, 5)
    routes = {session: swarm.kv_budget.reserve(session, 60) for session in (1,)}
    assert routes[1] is not None
    gone = routes[1][1].node
    reason = f"Node {gone.upper()}, which served layers 3-5, has left."
    assert swarm.handle(Left(gone)) == [Break(1, reason), Changed()]
    assert gone not in swarm.nodes
    # The session keeps its room on the other stage: there it goes on.
    assert swarm.nodes["n1"].reserved == {1: 60}
    [heir] = swarm.nodes.keys() - {"n1"}
    assert swarm.kv_budget.mend(1, routes[1], 60) == Mended((routes[1][0], Stage(heir, Span(3, 5), "twin")), ((1, 1),))
    assert swarm.release(1) == [Changed()]
    assert swarm.kv_budget.reserve(2, 100) is not None


def test_a_session_that_is_released_twice_frees_nothing_else() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 5)
    swarm.kv_budget.reserve(1, 40)
    swarm.kv_budget.reserve(2, 40)
    swarm.release(1)
    swarm.release(1)
    assert swarm.nodes["n1"].reserved == {2: 40}


def test_a_parked_session_keeps_what_it_holds_and_is_no_load() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 2)
    join(swarm, "n2", 3, 5)
    swarm.kv_budget.reserve(1, 60)
    swarm.kv_budget.park(1, 20)
    assert [node.reserved for node in swarm.nodes.values()] == [{1: 20}, {1: 20}]
    assert [node.sessions for node in swarm_status(swarm, "tiny", DIGEST, 512, no_audits(), 0).nodes] == [0, 0]
    assert swarm.kv_budget.reserve(2, 81) is None
    assert swarm.kv_budget.has_route_without_parked(2, 100)
    assert swarm.kv_budget.reserve(2, 80) is not None
    assert not swarm.kv_budget.has_route_without_parked(3, 21)
    assert [node.sessions for node in swarm_status(swarm, "tiny", DIGEST, 512, no_audits(), 0).nodes] == [1, 1]


def test_a_parked_session_is_resumed_on_every_stage_or_none() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 2, positions=50)
    join(swarm, "n2", 3, 5)
    swarm.kv_budget.reserve(1, 40)
    swarm.kv_budget.park(1, 20)
    assert swarm.kv_budget.can_resume(1, 50)
    assert not swarm.kv_budget.resume(1, 51)
    assert [(node.reserved, node.parked) for node in swarm.nodes.values()] == [({1: 20}, {1})] * 2
    assert swarm.kv_budget.resume(1, 50)
    assert [(node.reserved, node.parked) for node in swarm.nodes.values()] == [({1: 50}, set())] * 2
    swarm.kv_budget.park(1, 30)
    swarm.release(1)
    assert [(node.reserved, node.parked) for node in swarm.nodes.values()] == [({}, set())] * 2


def test_other_parked_sessions_are_in_the_way_of_growth_until_they_are_evicted() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 5)
    for session in (1, 2):
        swarm.kv_budget.reserve(session, 40)
        swarm.kv_budget.park(session, 40)
    assert not swarm.kv_budget.can_resume(1, 61)
    assert swarm.kv_budget.can_resume(1, 100, evicting=True)
    assert not swarm.kv_budget.can_resume(1, 101, evicting=True)


def test_a_parked_session_breaks_with_its_node_and_others_keep_their_parts() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 2)
    join(swarm, "n2", 3, 5)
    swarm.kv_budget.reserve(1, 40)
    swarm.kv_budget.park(1, 40)
    assert swarm.handle(Left("n1"))[0] == Break(1, "Node N1, which served layers 0-2, has left.")
    assert (swarm.nodes["n2"].reserved, swarm.nodes["n2"].parked) == ({1: 40}, {1})
    assert swarm.kv_budget.holders(1) == {"n2"}
    assert swarm.kv_budget.can_resume(1, 100)
    assert swarm.handle(Left("n2"))[0] == Break(1, "Node N2, which served layers 3-5, has left.")
    assert swarm.kv_budget.holders(1) == set()


def test_new_sessions_go_where_no_answer_is_under_way() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 5)
    join(swarm, "n2", 0, 5)
    first = swarm.kv_budget.reserve(1, 10)
    assert first is not None
    swarm.kv_budget.park(1, 10)
    assert swarm.kv_budget.reserve(2, 10) == first
    assert swarm.kv_budget.reserve(3, 10) != first


@given(st.lists(st.one_of(st.integers(1, 60), st.just(None)), max_size=30))
def test_promises_never_exceed_the_capacity(requests: list[int | None]) -> None:
    """None releases the oldest session that is open."""
    swarm = make_swarm()
    join(swarm, "n1", 0, 3, sessions=3)
    join(swarm, "n2", 2, 5, sessions=3)
    join(swarm, "n3", 4, 5, sessions=3)
    opened: list[int] = []
    for session, positions in enumerate(requests):
        if positions is None:
            if opened:
                swarm.release(opened.pop(0))
        elif swarm.kv_budget.reserve(session, positions) is not None:
            opened.append(session)
        for node in swarm.nodes.values():
            assert sum(node.reserved.values()) <= node.ready.capacity.positions
            assert len(node.reserved) <= node.ready.capacity.sessions
    for session in opened:
        swarm.release(session)
    assert all(node.reserved == {} for node in swarm.nodes.values())


PLACES = st.sampled_from([(0, 2), (3, 5), (0, 5), (2, 4)])


@given(st.lists(st.tuples(PLACES, st.integers(1, 4), st.integers(1, 2)), max_size=8), st.integers(1, 12))
def test_the_route_is_that_of_a_look_at_every_node(
    nodes: list[tuple[tuple[int, int], int, int]], requests: int
) -> None:
    swarm = make_swarm()
    for number, ((first, last), speed, sessions) in enumerate(nodes):
        join(swarm, f"n{number}", first, last, sessions=sessions, decode_s=speed / 128)
    for session in range(requests):
        servers = [
            Server(name, node.span, node.measure.token_s, node.measure.hop_s, node.open_sessions, node.ready.twin)
            for name, node in swarm.nodes.items()
            if node.has_room(session, 10)
        ]
        expected = choose_route(Span(0, LAYERS - 1), servers)
        if swarm.missing():
            assert expected is None
            break
        assert swarm.kv_budget.has_route_without_parked(session, 10) == (expected is not None)
        assert swarm.kv_budget.reserve(session, 10) == expected


def test_a_node_without_room_for_so_many_sessions_does_not_count_as_room_for_them() -> None:
    swarm = make_swarm()
    join(swarm, "n1", 0, 5, positions=500, sessions=1)
    join(swarm, "n2", 0, 2, positions=100)
    join(swarm, "n3", 3, 5, positions=60)
    assert [swarm.kv_budget.could_hold(positions) for positions in (500, 501)] == [True, False]
    assert [swarm.kv_budget.could_hold(positions, sessions=2) for positions in (60, 61)] == [True, False]
    assert not swarm.kv_budget.could_hold(1, sessions=9)
    swarm.handle(Left("n1"))
    assert [swarm.kv_budget.could_hold(positions) for positions in (60, 61)] == [True, False]


def test_the_status_names_nodes_speeds_and_what_is_missing() -> None:
    swarm = make_swarm()
    join(swarm, "n2", 2, 3)
    swarm.handle(Joined("n1", hello(Span(0, 1), name="bert")))
    swarm.handle(Progressed("n1", 0.25))
    status = swarm_status(swarm, "tiny", DIGEST, 512, no_audits(), 0)
    assert (status.served, status.covered, status.missing) == ([0, 0, 1, 1, 0, 0], False, ["0-1", "4-5"])
    loading, serving = status.nodes
    assert (loading.name, loading.state, loading.progress, loading.tokens_per_s) == ("bert", "loading", 0.25, None)
    assert (serving.name, serving.span, serving.state, serving.tokens_per_s) == ("N2", "2-3", "ready", 100.0)
    assert msgspec.json.decode(msgspec.json.encode(status))["layers"] == LAYERS


def test_what_limits_follows_from_what_steps_take_not_from_what_nodes_said() -> None:
    swarm = make_swarm()
    join(swarm, "a", 0, 2)
    join(swarm, "b", 3, 5, decode_s=0.03)
    assert swarm.limit().startswith("Layers 3-5 on B take 7")
    swarm.nodes["b"].measure.token_s = 0.01  # it loaded beside others
    swarm.nodes["a"].measure.token_s = 0.02
    assert swarm.limit().startswith("Layers 0-2 on A take 6")
