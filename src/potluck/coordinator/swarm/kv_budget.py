"""The KV budget: which sessions hold room on which nodes. It is reserved, mended, parked and given back. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import NamedTuple

from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.roster import GOING, Roster
from potluck.errors import Unavailable
from potluck.planning.routing import Server, choose_route
from potluck.types import Span, Stage
from potluck.wire.messages import MOST_STATE


class Mended(NamedTuple):
    """A session's route, and the runs (first, last) of its stages that hold nothing of the session yet."""

    route: tuple[Stage, ...]
    runs: tuple[tuple[int, int], ...]


class KvBudget:
    """The room of these nodes, which come and go. roster: knows which of them serve.

    tainted: nodes that were caught, whether they are still here or not.
    """

    def __init__(self, nodes: Mapping[str, Node], layers: int, roster: Roster, tainted: Collection[str]) -> None:
        self._nodes = nodes
        self._whole = Span(0, layers - 1)
        self._roster = roster
        self._tainted = tainted
        self._places: dict[int, set[str]] = {}
        """The nodes that hold room for each session. Some may have left or forgotten it since."""

    @property
    def streams(self) -> int:
        """The number of sessions for which nodes hold room and that are not parked."""
        return sum(any(session not in node.parked for node in self._nodes_of(session)) for session in self._places)

    def _hold(self, session: int, name: str, positions: int) -> None:
        self._nodes[name].reserve(session, positions)
        self._places.setdefault(session, set()).add(name)

    def reserve(
        self, session: int, positions: int, avoid: Collection[str] = (), spare: int = 0
    ) -> tuple[Stage, ...] | None:
        """A route for the session with room for its positions on every stage, or None when all room is taken now.

        avoid: nodes that are taken only if there is no other way. spare: as in `Node.has_room`.
        Raises Unavailable as `check` does.
        """
        self.check(positions)
        # Those to avoid may be the quickest: then the others have to be known.
        find = self._roomy if avoid else self._quickest
        route = self._route(find(session, positions, spare=spare), avoid)
        for stage in route or ():
            self._hold(session, stage.node, positions)
        return route

    def worth_moving(self, node: str, session: int) -> int:
        """The bytes of the session that the node's link carries while another node would compute them."""
        one = self._nodes[node]
        seconds = one.measure.row_s * one.reserved.get(session, 0)
        return int(min(MOST_STATE, one.speed.bytes_per_s * seconds))

    def reserve_on(self, node: str, session: int, positions: int) -> bool:
        """Reserve room for these positions of a session on this one node. False if there is none now."""
        if not self._is_roomy(node, session, positions):
            return False
        self._hold(session, node, positions)
        return True

    def has_room_without_parked(self, node: str, session: int, positions: int) -> bool:
        """Whether the node would have room for a new session if all parked ones were evicted."""
        return self._is_roomy(node, session, positions, evicting=True)

    def _is_roomy(self, name: str, session: int, positions: int, evicting: bool = False) -> bool:
        node = self._roster.ready.get(name)
        return node is not None and node.has_room(session, positions, evicting)

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
        self.release(session)
        for name in kept:
            self._hold(session, name, positions)
        return mended

    def due(self, session: int, route: Iterable[Stage]) -> str | None:
        """The node of the first stage that another node has to take."""
        return next((stage.node for stage in route if self._is_due(session, stage)), None)

    def can_mend_without_parked(self, session: int, route: tuple[Stage, ...], positions: int) -> bool:
        """Whether `mend` would succeed if all parked sessions were evicted."""
        return self._mended(session, route, self._roomy(session, positions, evicting=True), ()) is not None

    def _mended(
        self, session: int, route: tuple[Stage, ...], roomy: list[Server], avoid: Collection[str]
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
        if missing := self._roster.missing:
            raise Unavailable(f"No node serves layers {', '.join(map(str, missing))} now.")
        if not self.could_hold(positions):
            raise Unavailable(f"No route of this swarm can hold {positions} positions; ask for fewer tokens.")

    def could_hold(self, positions: int, sessions: int = 1) -> bool:
        """Whether an empty swarm has a route for this many positions, in this many sessions together."""
        return not self._roster.missing and positions <= self._roster.most_positions(sessions)

    def has_route_without_parked(self, session: int, positions: int, spare: int = 0) -> bool:
        """Whether a new session would find room if all parked ones were evicted. spare: as in `Node.has_room`."""
        return self._route(self._quickest(session, positions, evicting=True, spare=spare)) is not None

    def _roomy(self, session: int, positions: int, evicting: bool = False, spare: int = 0) -> list[Server]:
        """The ready nodes that have room for the session, as routing sees them."""
        ready = self._roster.ready.items()
        return [_server(name, node) for name, node in ready if node.has_room(session, positions, evicting, spare)]

    def _quickest(self, session: int, positions: int, evicting: bool = False, spare: int = 0) -> list[Server]:
        """The nodes that can be on the quickest route of those that have room for the session.

        Of nodes with the same span it is the quickest one. Where spans overlap in another way it may be any of them.
        """
        if self._roster.blocks is None:
            return self._roomy(session, positions, evicting, spare)
        found: list[Server] = []
        for block in self._roster.blocks.values():
            name, node = min(block.items(), key=_seconds)
            if not node.has_room(session, positions, evicting, spare):
                roomy = [one for one in block.items() if one[1].has_room(session, positions, evicting, spare)]
                if not roomy:
                    return []
                name, node = min(roomy, key=_seconds)
            found.append(_server(name, node))
        return found

    def _route(
        self, roomy: list[Server], avoid: Collection[str] = (), part: Span | None = None, twins: Collection[str] = ()
    ) -> tuple[Stage, ...] | None:
        """A route through these nodes for `part` (None means all layers), without those to avoid if there is another
        way.
        """
        part = part or self._whole
        welcome = [server for server in roomy if server.node not in avoid] if avoid else roomy
        route = choose_route(part, welcome, twins)
        if route is None and len(welcome) < len(roomy):
            return choose_route(part, roomy, twins)
        return route

    def park(self, session: int, positions: int) -> None:
        """Note that the session's answer has ended. It keeps only the positions that it holds, and those only until
        needed.
        """
        for node in self._nodes_of(session):
            node.park(session, positions)

    def holders(self, session: int) -> set[str]:
        """The nodes that hold room for the session."""
        return {name for name in self._places.get(session, ()) if self._holds(name, session)}

    def _holds(self, name: str, session: int) -> bool:
        return name in self._nodes and session in self._nodes[name].reserved

    def can_resume(self, session: int, positions: int, *, evicting: bool = False, spare: int = 0) -> bool:
        """Whether every stage of a parked session that is still there has room for this many positions of it.

        spare: as in `Node.has_room`.
        """
        return all(node.has_room(session, positions, evicting, spare) for node in self._nodes_of(session))

    def resume(self, session: int, positions: int) -> bool:
        """Open a parked session again with these positions on every stage that is still there. False if there is no
        room.
        """
        if not self.can_resume(session, positions):
            return False
        for node in self._nodes_of(session):
            node.reserve(session, positions)
        return True

    def _nodes_of(self, session: int) -> list[Node]:
        return [self._nodes[name] for name in self._places.get(session, ()) if self._holds(name, session)]

    def release(self, session: int) -> None:
        for node in self._nodes_of(session):
            node.forget(session)
        self._places.pop(session, None)


def _server(name: str, node: Node) -> Server:
    """The node as routing sees it."""
    measure = node.measure
    return Server(name, node.span, measure.token_s, measure.hop_s, node.open_sessions, node.ready.twin, measure.sums)


def _seconds(named: tuple[str, Node]) -> float:
    """The expected seconds of one more session's token on a node."""
    node = named[1]
    return node.measure.hop_s + node.measure.token_s * (1 + len(node.reserved) - len(node.parked))
