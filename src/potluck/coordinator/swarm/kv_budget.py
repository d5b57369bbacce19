"""The KV budget: which sessions hold room on which nodes. It is reserved, mended, parked and given back. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from potluck.coordinator.swarm.node import Node, ready_nodes
from potluck.errors import Unavailable
from potluck.planning.routing import Server, choose_route, missing_layers
from potluck.types import NodeState, Span, Stage, spans_of
from potluck.wire.messages import MOST_STATE


class Mended(NamedTuple):
    """A session's route, and the runs (first, last) of its stages that hold nothing of the session yet."""

    route: tuple[Stage, ...]
    runs: tuple[tuple[int, int], ...]


GOING = (NodeState.LEAVING, NodeState.MOVING, NodeState.PAUSED)
"""The states of nodes whose sessions are handed over."""


def missing_spans(nodes: Mapping[str, Node], layers: int) -> list[Span]:
    """The spans of a model's layers that no ready node serves."""
    return spans_of(missing_layers(layers, (node.span for node in ready_nodes(nodes).values())))


class KvBudget:
    """The room of these nodes, which come and go, for a model with this number of layers.

    tainted: nodes that were caught, whether they are still here or not.
    """

    def __init__(self, nodes: Mapping[str, Node], layers: int, tainted: Collection[str]) -> None:
        self._nodes = nodes
        self._layers = layers
        self._tainted = tainted

    @property
    def streams(self) -> int:
        """The number of sessions for which nodes hold room and that are not parked."""
        return len({session for node in self._nodes.values() for session in node.reserved.keys() - node.parked})

    def reserve(
        self, session: int, positions: int, avoid: Collection[str] = (), spare: int = 0
    ) -> tuple[Stage, ...] | None:
        """A route for the session with room for its positions on every stage, or None when all room is taken now.

        avoid: nodes that are taken only if there is no other way. spare: as in `Node.has_room`.
        Raises Unavailable as `check` does.
        """
        self.check(positions)
        route = self._route(self._roomy(session, positions, spare=spare), avoid)
        for stage in route or ():
            self._nodes[stage.node].reserved[session] = positions
        return route

    def worth_moving(self, node: str, session: int) -> int:
        """The bytes of the session that the node's link carries while another node would compute them."""
        one = self._nodes[node]
        seconds = one.measure.row_s * one.reserved.get(session, 0)
        return int(min(MOST_STATE, one.speed.bytes_per_s * seconds))

    def reserve_on(self, node: str, session: int, positions: int) -> bool:
        """Reserve room for these positions of a session on this one node. False if there is none now."""
        if node not in self._roomy(session, positions):
            return False
        self._nodes[node].reserved[session] = positions
        return True

    def has_room_without_parked(self, node: str, session: int, positions: int) -> bool:
        """Whether the node would have room for a new session if all parked ones were evicted."""
        return node in self._roomy(session, positions, evicting=True)

    def give_up(self, session: int, route: Iterable[Stage]) -> list[str]:
        """Let go of the nodes that a session is still on, because one that waits for lost layers must not keep nodes
        from going.

        Returns the nodes.
        """
        names = [stage.node for stage in self.going(session, route)]
        for name in names:
            self._nodes[name].forget(session)
        return names

    def wants_mending(self, session: int, route: Iterable[Stage]) -> bool:
        """Whether a stage of the session's route is lost, or about to leave."""
        return self.due(session, route) is not None

    def going(self, session: int, route: Iterable[Stage]) -> list[Stage]:
        """The stages of the session whose nodes are about to leave or pause, and still hold it."""
        here = [(stage, self._nodes[stage.node]) for stage in route if stage.node in self._nodes]
        return [stage for stage, node in here if node.state in GOING and session in node.reserved]

    def _is_due(self, session: int, stage: Stage) -> bool:
        """Whether another node has to take the stage."""
        node = self._nodes.get(stage.node)
        return node is None or session not in node.reserved or node.state in GOING

    def mend(
        self, session: int, route: tuple[Stage, ...], positions: int, avoid: Collection[str] = ()
    ) -> Mended | None:
        """The session's route with other nodes in place of those that are lost or about to leave, with their room
        reserved.

        Twins of the lost nodes are preferred. None when nobody has the layers and the room; nothing is changed then.
        What later stages hold was computed from the rows of a node that was caught, so it counts as lost, too.
        """
        mended = self._mended(session, route, self._roomy(session, positions), avoid)
        if mended is None:
            return None
        kept = {stage.node for stage in mended.route}
        for name, node in self._nodes.items():
            if name in kept:
                node.reserved[session] = positions
            else:
                node.forget(session)
        return mended

    def due(self, session: int, route: Iterable[Stage]) -> str | None:
        """The node of the first stage that another node has to take."""
        return next((stage.node for stage in route if self._is_due(session, stage)), None)

    def can_mend_without_parked(self, session: int, route: tuple[Stage, ...], positions: int) -> bool:
        """Whether `mend` would succeed if all parked sessions were evicted."""
        return self._mended(session, route, self._roomy(session, positions, evicting=True), ()) is not None

    def _mended(
        self, session: int, route: tuple[Stage, ...], roomy: dict[str, Node], avoid: Collection[str]
    ) -> Mended | None:
        stages: list[Stage] = []
        runs: list[tuple[int, int]] = []
        tainted: int | None = None
        for due, group in groupby(route, lambda stage: self._is_due(session, stage)):
            old = list(group)
            if not due:
                stages += old
                continue
            part = Span(old[0].span.first, old[-1].span.last)
            new = self._route(roomy, avoid, part, {stage.twin for stage in old})
            if new is None:
                return None
            if tainted is None and any(stage.node in self._tainted for stage in old):
                tainted = len(stages)
            runs.append((len(stages), len(stages) + len(new) - 1))
            stages += new
        if tainted is not None:
            runs = [*(run for run in runs if run[1] < tainted), (tainted, len(stages) - 1)]
        return Mended(tuple(stages), tuple(runs))

    def check(self, positions: int) -> None:
        """Raises Unavailable when layers are not covered (and names them), or when no nodes could ever hold these
        positions.
        """
        if missing := missing_spans(self._nodes, self._layers):
            raise Unavailable(f"No node serves layers {', '.join(map(str, missing))} now.")
        if not self.could_hold(positions):
            raise Unavailable(f"No route of this swarm can hold {positions} positions; ask for fewer tokens.")

    def could_hold(self, positions: int, sessions: int = 1) -> bool:
        """Whether an empty swarm has a route for this many positions, in this many sessions together."""
        big = {
            name: node
            for name, node in ready_nodes(self._nodes).items()
            if positions <= node.ready.capacity.positions and sessions <= node.ready.capacity.sessions
        }
        return self._route(big) is not None

    def has_route_without_parked(self, session: int, positions: int, spare: int = 0) -> bool:
        """Whether a new session would find room if all parked ones were evicted. spare: as in `Node.has_room`."""
        return self._route(self._roomy(session, positions, evicting=True, spare=spare)) is not None

    def _roomy(self, session: int, positions: int, evicting: bool = False, spare: int = 0) -> dict[str, Node]:
        ready = ready_nodes(self._nodes).items()
        return {name: node for name, node in ready if node.has_room(session, positions, evicting, spare)}

    def _route(
        self, nodes: dict[str, Node], avoid: Collection[str] = (), part: Span | None = None, twins: Collection[str] = ()
    ) -> tuple[Stage, ...] | None:
        """A route through these nodes for `part` (None means all layers), without those to avoid if there is another
        way.
        """
        part = part or Span(0, self._layers - 1)
        welcome = {name: node for name, node in nodes.items() if name not in avoid}
        route = choose_route(part, _servers(welcome), twins)
        if route is None and len(welcome) < len(nodes):
            return choose_route(part, _servers(nodes), twins)
        return route

    def park(self, session: int, positions: int) -> None:
        """Note that the session's answer has ended. It keeps only the positions that it holds, and those only until
        needed.
        """
        for node in self._nodes_of(session):
            node.reserved[session] = positions
            node.parked.add(session)

    def can_resume(self, session: int, positions: int, *, evicting: bool = False, spare: int = 0) -> bool:
        """Whether every stage of a parked session has room for this many positions of it.

        spare: as in `Node.has_room`.
        """
        return all(node.has_room(session, positions, evicting, spare) for node in self._nodes_of(session))

    def resume(self, session: int, positions: int) -> bool:
        """Open a parked session again with these positions on every stage of its route. False if there is no room."""
        if not self.can_resume(session, positions):
            return False
        for node in self._nodes_of(session):
            node.reserved[session] = positions
            node.parked.remove(session)
        return True

    def _nodes_of(self, session: int) -> list[Node]:
        return [node for node in self._nodes.values() if session in node.reserved]

    def release(self, session: int) -> None:
        for node in self._nodes.values():
            node.forget(session)


def _servers(nodes: dict[str, Node]) -> list[Server]:
    return [
        Server(name, node.span, node.measure.token_s, node.measure.hop_s, node.open_sessions, node.ready.twin)
        for name, node in nodes.items()
    ]
