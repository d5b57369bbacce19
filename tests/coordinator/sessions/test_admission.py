import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.sessions.admission import Admission, Grant
from potluck.coordinator.sessions.prefix_cache import KEEP_S, Parked
from potluck.coordinator.swarm.events import BecameReady, Joined
from potluck.coordinator.swarm.swarm import Swarm
from potluck.planning.cost import Footprint
from potluck.types import Capacity, Span, Speed
from potluck.wire.messages import Hello, Ready
from potluck.wire.rows import Ids

NOTHING = np.array([], np.int32)


def make_swarm(*nodes: tuple[int, int, int], sessions: int = 8) -> Swarm:
    """nodes: first layer, last layer, positions."""
    swarm = Swarm("d", Footprint((1,) * 4, 0, 0))
    for number, (first, last, positions) in enumerate(nodes):
        name = f"n{number}"
        swarm.handle(Joined(name, Hello(name, "0.1", "", Span(first, last), 1 << 40, 1)))
        ready = Ready(Capacity(sessions, positions, 512), Speed(0.01, 0.001), "", "")
        swarm.handle(BecameReady(name, ready))
    return swarm


def count(*bounds: int) -> Ids:
    return np.arange(*bounds, dtype=np.int32)


def park(admission: Admission, grant: Grant | None, tokens: Ids, since: float = 0.0) -> None:
    assert grant is not None
    assert admission.park(Parked(grant.number, grant.route, tokens, 5, since))


def reserved(swarm: Swarm) -> list[dict[int, int]]:
    return [node.reserved for node in swarm.nodes.values()]


def test_a_request_that_begins_like_a_parked_session_takes_it_over() -> None:
    swarm = make_swarm((0, 1, 100), (2, 3, 100))
    admission = Admission(swarm)
    first = admission.grant(1, 40, count(20), ())
    park(admission, first, count(30))
    assert reserved(swarm) == [{1: 30}] * 2
    second = admission.grant(2, 60, count(50), ())
    assert first is not None
    assert second == Grant(1, first.route, held=30, steps=5, uses=2, fed=30)
    assert reserved(swarm) == [{1: 60}] * 2
    third = admission.grant(3, 30, count(50), ())
    assert third is not None
    assert (third.number, third.held) == (3, 0)  # a session serves one request at a time


def test_room_to_spare_is_left_beside_a_session_that_is_taken_over_too() -> None:
    swarm = make_swarm((0, 3, 100))
    admission = Admission(swarm)
    park(admission, admission.grant(1, 40, count(20), ()), count(30))
    assert admission.grant(2, 50, count(40), (), spare=51) is None
    grant = admission.grant(3, 50, count(40), (), spare=50)
    assert grant is not None
    assert (grant.number, grant.held) == (1, 30)


def test_what_the_nodes_still_hold_stays_reserved() -> None:
    swarm = make_swarm((0, 3, 100))
    admission = Admission(swarm)
    park(admission, admission.grant(1, 80, NOTHING, ()), count(80))
    grant = admission.grant(2, 31, count(30), ())
    assert grant is not None
    assert grant.held == 29
    assert reserved(swarm) == [{1: 80}]


def test_for_growth_the_other_parked_sessions_give_way_oldest_first() -> None:
    swarm = make_swarm((0, 3, 100))
    admission = Admission(swarm)
    grants = [admission.grant(number, 30, NOTHING, ()) for number in (1, 2, 3)]
    for number, grant in enumerate(grants):
        park(admission, grant, count(1000 * number, 1000 * number + 30))
    grant = admission.grant(4, 60, count(50), ())
    assert grant is not None
    assert (grant.number, grant.held, grant.evicted) == (1, 30, (2,))
    assert reserved(swarm) == [{1: 60, 3: 30}]


def test_growth_evicts_only_where_it_needs_room() -> None:
    swarm = make_swarm((0, 3, 100), (0, 3, 100))
    admission = Admission(swarm)
    grants = [admission.grant(number, 40, NOTHING, (avoid,)) for number, avoid in ((1, "n0"), (2, "n1"), (3, "n1"))]
    assert [grant.route[0].node for grant in grants if grant] == ["n1", "n0", "n0"]
    for number, grant in enumerate(grants):
        park(admission, grant, count(1000 * number, 1000 * number + 40))
    grown = admission.grant(4, 90, count(2000, 2080), ())
    assert grown is not None
    assert (grown.number, grown.evicted) == (3, (2,))
    assert reserved(swarm) == [{3: 90}, {1: 40}]


def test_without_room_for_growth_another_route_is_taken_and_nothing_is_lost() -> None:
    swarm = make_swarm((0, 3, 100), (0, 3, 100))
    admission = Admission(swarm)
    park(admission, admission.grant(1, 30, NOTHING, ()), count(30))
    assert admission.grant(2, 60, NOTHING, ()) is not None  # beside it
    assert reserved(swarm) == [{1: 30, 2: 60}, {}]
    grant = admission.grant(3, 60, count(50), ())
    assert grant is not None
    assert (grant.held, grant.evicted) == (0, ())
    assert reserved(swarm) == [{1: 30, 2: 60}, {3: 60}]


def test_a_new_session_evicts_only_as_many_as_it_must() -> None:
    swarm = make_swarm((0, 3, 100))
    admission = Admission(swarm)
    grants = [admission.grant(number, 30, NOTHING, ()) for number in (1, 2, 3)]
    for number in (1, 0, 2):
        park(admission, grants[number], count(1000 * number, 1000 * number + 30))
    grant = admission.grant(4, 70, NOTHING, ())
    assert grant is not None
    assert (grant.number, grant.evicted) == (4, (2, 1))
    assert reserved(swarm) == [{3: 30, 4: 70}]


def test_nothing_is_evicted_in_vain() -> None:
    swarm = make_swarm((0, 3, 100))
    admission = Admission(swarm)
    parked = admission.grant(1, 30, NOTHING, ())
    assert admission.grant(2, 50, NOTHING, ()) is not None
    park(admission, parked, count(30))
    assert admission.grant(3, 60, count(50), ()) is None
    assert reserved(swarm) == [{1: 30, 2: 50}]


def test_a_full_table_of_sessions_evicts_too() -> None:
    swarm = make_swarm((0, 3, 100), sessions=1)
    admission = Admission(swarm)
    park(admission, admission.grant(1, 30, NOTHING, ()), count(30))
    resumed = admission.grant(2, 40, count(40), ())
    assert resumed is not None
    assert (resumed.number, resumed.evicted) == (1, ())
    park(admission, resumed, count(40))
    other = admission.grant(3, 10, NOTHING, ())
    assert other is not None
    assert (other.number, other.evicted) == (3, (1,))


def test_a_session_with_an_avoided_node_is_not_taken_over() -> None:
    swarm = make_swarm((0, 3, 100), (0, 3, 100))
    admission = Admission(swarm)
    first = admission.grant(1, 30, NOTHING, ())
    assert first is not None
    park(admission, first, count(30))
    grant = admission.grant(2, 40, count(40), {first.route[0].node})
    assert grant is not None
    assert (grant.number, grant.held) == (2, 0)
    assert grant.route != first.route


def test_what_is_too_short_is_not_parked_and_what_is_old_expires() -> None:
    swarm = make_swarm((0, 3, 100))
    admission = Admission(swarm)
    short, good = admission.grant(1, 30, NOTHING, ()), admission.grant(2, 30, NOTHING, ())
    assert short is not None
    assert not admission.park(Parked(1, short.route, count(15), 5, 0.0))
    assert admission.next_expiry is None
    park(admission, good, count(30), since=3.0)
    assert admission.next_expiry == 3.0 + KEEP_S
    assert admission.expired(3.0) == []
    assert admission.expired(3.0 + KEEP_S) == [2]
    admission.drop(2)
    assert admission.next_expiry is None


@given(st.lists(st.tuples(st.integers(17, 60), st.integers(0, 2), st.booleans()), max_size=40))
def test_promises_never_exceed_the_capacity(requests: list[tuple[int, int, bool]]) -> None:
    """Each request: its length, which of three texts it is of, and whether the oldest open session ends first."""
    swarm = make_swarm((0, 1, 100), (2, 3, 120), (0, 2, 100), (3, 3, 70), sessions=3)
    admission = Admission(swarm)
    running: list[tuple[Grant, Ids]] = []
    for number, (length, text, ends) in enumerate(requests):
        if ends and running:
            park(admission, *running.pop(0))
        tokens = count(1000 * text, 1000 * text + length)
        grant = admission.grant(number, length, tokens, ())
        if grant is not None:
            assert not {one.number for one, _ in running} & {grant.number, *grant.evicted}
            assert grant.held < length
            running.append((grant, tokens))
        for node in swarm.nodes.values():
            assert sum(node.reserved.values()) <= node.ready.capacity.positions
            assert len(node.reserved) <= node.ready.capacity.sessions
        for one, own in running:
            assert all(swarm.nodes[stage.node].reserved[one.number] >= len(own) for stage in one.route)
        assert sum(node.open_sessions for node in swarm.nodes.values()) == sum(len(one.route) for one, _ in running)
