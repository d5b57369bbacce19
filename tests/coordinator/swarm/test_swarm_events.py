"""Whatever happens to nodes and sessions, in whatever order: what must hold always."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from potluck.coordinator.swarm.events import (
    Action,
    Admit,
    BecameReady,
    Break,
    Joined,
    Leaves,
    Left,
    LetGo,
    Pauses,
    Quarantined,
    Rebalance,
    Refuse,
    Resumes,
    Revived,
    Stalled,
)
from potluck.coordinator.swarm.kv_budget import Mended
from potluck.coordinator.swarm.roster import Roster
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import Unavailable
from potluck.planning.cost import RESERVE_BYTES, Footprint
from potluck.types import Capacity, NodeState, PauseReason, Span, Speed, Stage
from potluck.wire.messages import Hello, Ready

LAYERS = 4
POSITIONS = 10


class Life(RuleBasedStateMachine):
    """The test keeps each open session's route, as a generator does, and what the swarm said of it."""

    def __init__(self) -> None:
        super().__init__()
        self.swarm = Swarm("d" * 64, Footprint((1,) * LAYERS, 0, 0))
        self.routes: dict[int, tuple[Stage, ...]] = {}
        self.lost: set[int] = set()
        self.released: set[str] = set()
        self.caught: set[str] = set()
        self.count = 0

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Break(session):
                    assert session in self.routes
                    self.lost.add(session)
                case LetGo(node):
                    self.released.add(node)
                case Admit(node):
                    assert not self.swarm.nodes[node].reserved

    def pick(self, data: st.DataObject, *states: NodeState) -> str | None:
        names = sorted(name for name, node in self.swarm.nodes.items() if node.state in states)
        return data.draw(st.sampled_from(names)) if names else None

    @rule(first=st.integers(0, LAYERS - 1), more=st.integers(0, LAYERS - 1), chosen=st.booleans(), moves=st.booleans())
    def join(self, first: int, more: int, chosen: bool, moves: bool) -> None:
        self.count += 1
        span = Span(first, min(first + more, LAYERS - 1)) if chosen else None
        key = f"key {self.count}".encode()
        hello = Hello("anna", "0.1", "", span, RESERVE_BYTES + 2, 1, movable=moves, key=key)
        self.take(self.swarm.handle(Joined(f"n{self.count}", hello)))

    @rule(data=st.data(), twin=st.sampled_from("ab"))
    def become_ready(self, data: st.DataObject, twin: str) -> None:
        if node := self.pick(data, NodeState.LOADING):
            self.take(self.swarm.handle(BecameReady(node, Ready(Capacity(3, 25, 64), Speed(0.01, 0.001), twin, ""))))

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if node := self.pick(data, *NodeState):
            self.take(self.swarm.handle(Left(node)))
            self.released.discard(node)

    @rule(data=st.data())
    def stall(self, data: st.DataObject) -> None:
        if node := self.pick(data, NodeState.READY, NodeState.LEAVING, NodeState.MOVING, NodeState.PAUSED):
            self.take(self.swarm.handle(Stalled(node, "it has been silent")))

    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        if node := self.pick(data, NodeState.STALLED):
            self.take(self.swarm.handle(Revived(node)))

    @rule(data=st.data(), reason=st.sampled_from(PauseReason))
    def pause(self, data: st.DataObject, reason: PauseReason) -> None:
        if node := self.pick(data, *NodeState):
            before = self.swarm.nodes[node].state
            self.take(self.swarm.handle(Pauses(node, reason)))
            pauses = before not in (NodeState.LOADING, NodeState.LEAVING, NodeState.QUARANTINED)
            assert self.swarm.nodes[node].state is (NodeState.PAUSED if pauses else before)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        if node := self.pick(data, *NodeState):
            before = self.swarm.nodes[node].state
            self.take(self.swarm.handle(Resumes(node)))
            assert self.swarm.nodes[node].state is (NodeState.READY if before is NodeState.PAUSED else before)

    @rule(data=st.data())
    def catch(self, data: st.DataObject) -> None:
        if node := self.pick(data, *set(NodeState) - {NodeState.QUARANTINED, NodeState.LEAVING}):
            key = self.swarm.nodes[node].key
            self.caught.add(node)
            self.take(self.swarm.handle(Quarantined(node, key, "it lies")))
            again = Hello("anna", "0.1", "", None, RESERVE_BYTES + 2, 1, key=key)
            [refusal] = self.swarm.handle(Joined("again", again))
            assert refusal == Refuse("again", "This node is in quarantine: it lies.")

    @rule(data=st.data())
    def ask_to_leave(self, data: st.DataObject) -> None:
        if node := self.pick(data, *set(NodeState) - {NodeState.LEAVING}):
            self.take(self.swarm.handle(Leaves(node)))

    @rule()
    def rebalance(self) -> None:
        for _ in range(3):
            before = self.swarm.missing()
            self.take(self.swarm.handle(Rebalance()))
            assert self.swarm.missing() == before  # a move uncovers nothing

    @rule()
    def open(self) -> None:
        self.count += 1
        try:
            route = self.swarm.kv_budget.reserve(self.count, POSITIONS)
        except Unavailable:
            return
        if route is not None:
            self.routes[self.count] = route

    @precondition(lambda self: self.routes)
    @rule(data=st.data())
    def mend(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.routes)))
        wanted = self.swarm.kv_budget.wants_mending(session, self.routes[session])
        mended = self.swarm.kv_budget.mend(session, self.routes[session], POSITIONS)
        if mended is None:
            assert wanted
            return
        assert wanted == bool(mended.runs)
        self.check_mended(session, mended)
        self.routes[session] = mended.route
        self.lost.discard(session)
        self.take(self.swarm.let_go())

    def check_mended(self, session: int, mended: Mended) -> None:
        layers = [layer for stage in mended.route for layer in range(stage.span.first, stage.span.last + 1)]
        assert layers == list(range(LAYERS))
        new = {index for first, goal in mended.runs for index in range(first, goal + 1)}
        old = self.routes[session]
        if tainted := [stage.span.first for stage in old if stage.node in self.caught]:
            assert {index for index, stage in enumerate(mended.route) if stage.span.first >= min(tainted)} <= new
        for index, stage in enumerate(mended.route):
            assert stage.node not in self.caught
            assert (stage not in self.routes[session]) <= (index in new)
            assert stage.span.first == self.swarm.nodes[stage.node].span.first
            if index in new:
                assert self.swarm.nodes[stage.node].state is NodeState.READY

    @precondition(lambda self: self.routes)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.routes)))
        del self.routes[session]
        self.lost.discard(session)
        self.take(self.swarm.release(session))

    @invariant()
    def room_is_kept_for_open_sessions_alone(self) -> None:
        for name, node in self.swarm.nodes.items():
            for session in node.reserved:
                assert name in {stage.node for stage in self.routes[session]}
            assert sum(node.reserved.values()) <= node.ready.capacity.positions
            computing = (NodeState.READY, NodeState.LEAVING, NodeState.MOVING, NodeState.PAUSED)
            assert node.state in computing or not node.reserved

    @invariant()
    def a_session_that_is_not_lost_has_all_its_stages(self) -> None:
        for session, route in self.routes.items():
            whole = all(
                session in self.swarm.nodes[stage.node].reserved for stage in route if stage.node in self.swarm.nodes
            )
            here = all(stage.node in self.swarm.nodes for stage in route)
            assert (session in self.lost) == (not (whole and here))

    @invariant()
    def a_node_moves_only_while_others_serve_its_layers(self) -> None:
        served = self.swarm.served()
        for node in self.swarm.nodes.values():
            assert (node.destination is not None) == (node.state is NodeState.MOVING)
            if node.state is NodeState.MOVING:
                assert node.movable
                assert node.reserved
                assert all(served[node.span.first : node.span.last + 1])

    @invariant()
    def the_roster_is_never_out_of_date(self) -> None:
        nodes, layers, roster = self.swarm.nodes, self.swarm.layers, self.swarm.roster
        fresh = Roster(nodes, layers)
        assert list(roster.ready) == list(fresh.ready)
        assert list(roster.going) == list(fresh.going)
        assert roster.missing == fresh.missing
        for layer in range(layers):
            assert list(roster.beginning_at(layer)) == list(fresh.beginning_at(layer))
        for sessions in (1, 2, 5):
            assert roster.most_positions(sessions) == fresh.most_positions(sessions)

    @invariant()
    def a_node_knows_the_sum_of_what_it_has_promised(self) -> None:
        for node in self.swarm.nodes.values():
            if node.state is NodeState.READY:
                free = node.ready.capacity.positions - sum(node.reserved.values())
                has_seat = len(node.reserved) < node.ready.capacity.sessions
                assert node.has_room(-1, free) == has_seat
                assert not node.has_room(-1, free + 1)
                assert node.has_room(-1, free + sum(node.reserved[one] for one in node.parked), evicting=True) == (
                    has_seat or bool(node.parked)
                )

    @invariant()
    def nobody_pauses_without_a_reason(self) -> None:
        for node in self.swarm.nodes.values():
            assert bool(node.reason) == (node.state in (NodeState.PAUSED, NodeState.QUARANTINED))

    @invariant()
    def nobody_is_let_go_who_is_needed_and_nobody_is_kept_who_is_not(self) -> None:
        for name, node in self.swarm.nodes.items():
            leaving = node.state is NodeState.LEAVING
            assert (name in self.released) == (leaving and not node.reserved)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
