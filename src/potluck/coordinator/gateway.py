"""The coordinator's end of the web-sockets: admits nodes, carries frames between them, and opens sessions."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec import structs
from starlette.types import Receive, Scope, Send

from potluck.coordinator.accounts import Ledger
from potluck.coordinator.admission import Admission, Grant
from potluck.coordinator.auditor import Auditor
from potluck.coordinator.audits import Audits, no_audits
from potluck.coordinator.claim import EVERYONE, Claim, Rank
from potluck.coordinator.events import (
    Action,
    Admit,
    BecameReady,
    Break,
    Changed,
    Event,
    Joined,
    Leaves,
    Left,
    LetGo,
    Progressed,
    Quarantined,
    Rebalance,
    Refuse,
    Resized,
    Revived,
    Stalled,
    Tell,
)
from potluck.coordinator.fair import Standing
from potluck.coordinator.handover import Handover
from potluck.coordinator.limits import Limits
from potluck.coordinator.line import Line, Place
from potluck.coordinator.linkprobe import UNKNOWN, probe_link
from potluck.coordinator.parked import Parked
from potluck.coordinator.peers import choose_peers, may_share
from potluck.coordinator.reception import Reception
from potluck.coordinator.relay import Outgoing, Relay
from potluck.coordinator.sampling import Candidates
from potluck.coordinator.session import Session
from potluck.coordinator.swarm import Swarm
from potluck.coordinator.tickets import Tickets
from potluck.coordinator.trace import Hop
from potluck.coordinator.turns import Turns
from potluck.coordinator.watch import LOOK_S, Ask, Watch
from potluck.coordinator.witness import Evidence
from potluck.errors import (
    IdentityError,
    LinkClosed,
    PotluckError,
    RebuildFailed,
    Refused,
    RouteLost,
    StoreError,
    Unavailable,
    WireError,
)
from potluck.types import Attention, EngineKind, NodeState, Quantize, RowFormat, Span, Stage
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.link import Link
from potluck.wire.messages import (
    Close,
    Exported,
    Failed,
    FromNode,
    Greeting,
    Hello,
    Hidden,
    Imported,
    Kept,
    Leaving,
    Loading,
    Notice,
    PeerToken,
    Ping,
    Pong,
    Ready,
    Refusal,
    Released,
    Scores,
    Step,
    Threads,
    Welcome,
)
from potluck.wire.rows import Ids, pack_ids

log = logging.getLogger(__name__)

_HELLO_S = 30.0
"""How long a new socket may take to say who it is."""

_FAREWELL_S = 2.0

_CHATTER_PER_MINUTE = 600
"""Frames of a node that answer no step: honest ones send two or three a second, and states of sessions in a few."""

_REBALANCE_LOOKS = 16
"""Looks at the nodes from one thought about their layers to the next."""

_MENDED_AT_ONCE = 2
"""Sessions of one lost node: all at once would all be late."""

_MOST_SHOWN = 100
"""Waiting requests that `/status` lists."""


class ServerLink:
    """A node's web-socket as the ASGI server gives it: no framework between, since every hidden row passes here."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def accept(self) -> None:
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})

    async def send(self, frame: bytes) -> None:
        try:
            await self._send({"type": "websocket.send", "bytes": frame})
        except OSError as error:  # the server's word for a socket that is gone
            raise LinkClosed("The node's socket is closed.") from error

    async def receive(self) -> bytes:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            raise LinkClosed("The node's socket is closed.")
        frame: bytes | None = message.get("bytes")
        if frame is None:
            raise WireError("A text frame came where only binary ones are spoken.")
        return frame

    async def close(self) -> None:
        try:
            await self._send({"type": "websocket.close"})
        except (OSError, RuntimeError):  # RuntimeError: it was closed already
            log.debug("The socket was closed already.")


class Outbox:
    """Frames waiting for one node, so that a slow node holds up nobody else."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames: deque[bytes] = deque()
        self._filled = asyncio.Event()

    def put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._filled.set()

    async def run(self) -> None:
        """Send until the link closes."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._frames:
                await self._link.send(self._frames.popleft())


@dataclass(frozen=True)
class Terms:
    """What every node of the swarm agrees on; see `Welcome`. digest: of the model. context: positions a session."""

    digest: str
    engine: EngineKind
    quantize: Quantize
    attention: Attention
    rows: RowFormat
    context: int

    def welcome(self, node: str, span: Span, ticket: str, peers: tuple[str, ...] = (), peer_token: str = "") -> Welcome:
        engine, quantize, attention, rows = self.engine, self.quantize, self.attention, self.rows
        return Welcome(
            node, self.digest, span, engine, quantize, attention, rows, self.context, ticket, peers, peer_token
        )


def _current_task() -> asyncio.Task[Any]:
    """The one that runs this."""
    task = asyncio.current_task()
    assert task is not None
    return task


def _stopped() -> Unavailable:
    return Unavailable("The coordinator is stopping.")


class Gateway:
    """Owns the links; asks `reception` who is there, `swarm` for decisions and `relay` for where frames go.

    ledger: where the nodes' work is booked. tickets: those of the nodes that are connected.
    """

    def __init__(
        self,
        swarm: Swarm,
        relay: Relay,
        terms: Terms,
        reception: Reception,
        ledger: Ledger | None = None,
        audits: Audits | None = None,
    ) -> None:
        self.swarm = swarm
        self.ledger = ledger or Ledger()
        self.tickets = Tickets()
        self._stays: dict[str, asyncio.Task[Any]] = {}
        self._cut: dict[str, str] = {}
        """Nodes whose stay was ended here, and why."""
        self._reception = reception
        self._relay = relay
        self._terms = terms
        self._outboxes: dict[str, Outbox] = {}
        self._results: dict[tuple[int, int], asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._line = Line(relay.clock)
        self._places: dict[int, Place] = {}
        """Of the requests whose sessions are open."""
        self._admission = Admission(swarm)
        self._expiry: asyncio.TimerHandle | None = None
        self._stopping = False
        self._watch = Watch()
        self._chatter = Limits()
        self._handover = Handover(lambda node, frame: self._send_to((node, frame)))
        self._turns = Turns(_MENDED_AT_ONCE)
        self._looking: asyncio.TimerHandle | None = None
        self._pings = itertools.count(1)
        self._looks = itertools.count(1)
        self._hosts: dict[str, str] = {}
        self._peer_token = secrets.token_urlsafe(32)
        self.auditor = Auditor(self, relay, audits or no_audits(), self.ledger)
        self.on_quarantined: Callable[[bytes, str], None] = lambda *_: None
        """Is given a node's key and what it did: whoever keeps lists of nodes."""
        relay.on_hop = self._measure
        relay.on_audit = self._finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The route `/node`, as an ASGI application."""
        link = ServerLink(receive, send)
        await link.accept()
        host, _ = scope["client"] or ("", 0)
        await self.serve(link, host)

    async def serve(self, link: Link, host: str = "") -> None:
        """One node's whole stay, from its greeting to the end of its link. host: the address from which it came."""
        node = f"n{next(self._numbers)}"
        self._hosts[node] = host
        outbox = self._outboxes[node] = Outbox(link)
        sender = asyncio.create_task(outbox.run())
        task = self._stays[node] = _current_task()
        reason = None
        try:
            await self._admit(node, link)
            self._watch_on()
            while True:
                message, payload = decode_from_node(await link.receive())
                self._watch.heard(node, self._relay.clock())
                if not isinstance(message, Hidden | Scores | Kept | Failed):
                    self._check_chatter(node)
                self._take(node, message, payload)
        except LinkClosed as error:
            log.info("%s: %s", self._name(node), error)
        except (WireError, IdentityError, Refused) as error:
            log.warning("%s is refused: %s", self._name(node), error)
            reason = str(error)
        except StoreError as error:  # it may come again, and need not know
            log.error("%s cannot come in: %s", self._name(node), error)
        except asyncio.CancelledError:
            if node not in self._cut:
                raise
            task.uncancel()
            reason = self._cut.pop(node)
            log.warning("%s is cut: %s", self._name(node), reason)
        finally:
            sender.cancel()
            del self._outboxes[node], self._hosts[node], self._stays[node]
            self.tickets.cancel(node)
            self._watch.forget(node)
            self._relay.forget(node)
            self._handover.lost(node)
            self._apply(Left(node))  # before the farewell, which a node that does not read would hold up
            await self._part(link, reason)

    def cut(self, key: bytes, reason: str) -> None:
        """Nodes with this public key go now, with the reason; their sessions go on without them.

        What they know of the others' tokens is worth nothing then.
        """
        named = {name for name, known in self.swarm.nodes.items() if known.key == key}
        for node in named - self._cut.keys():
            self._cut[node] = reason
            self._stays[node].cancel()
        self._renew_peer_token()

    def _renew_peer_token(self) -> None:
        """The one that a node takes along opens nothing, whether it was here when it was revoked or had left."""
        self._peer_token = secrets.token_urlsafe(32)
        frame = encode(PeerToken(self._peer_token))
        self._send_to(*((node, frame) for node in self.swarm.nodes.keys() - self._cut.keys()))

    def _check_chatter(self, node: str) -> None:
        """Raises WireError when a node sends too many frames that answer no step."""
        if self._chatter.wait_s(node, _CHATTER_PER_MINUTE, self._relay.clock()):
            raise WireError("The node floods the coordinator with frames that answer nothing.")

    def _name(self, node: str) -> str:
        known = self.swarm.nodes.get(node)
        return f"Node {known.name} ({node})" if known else f"Node {node}"

    async def _admit(self, node: str, link: Link) -> None:
        try:
            async with asyncio.timeout(_HELLO_S):
                hello, entry = await self._reception.meet(link)
                # Whose owner chose the layers has them whatever its link is like.
                speed = await probe_link(link, self._relay.clock) if hello.movable else UNKNOWN
        except TimeoutError as error:
            raise WireError(f"No hello came within {_HELLO_S:.0f} s.") from error
        self._apply(Joined(node, hello, entry, speed))

    async def _part(self, link: Link, reason: str | None) -> None:
        """Close the link, with the reason for a refusal."""
        try:
            async with asyncio.timeout(_FAREWELL_S):
                if reason is not None:
                    await link.send(encode(Refusal(reason)))
                await link.close()
        except (LinkClosed, TimeoutError):
            log.debug("The node did not wait for our farewell.")

    def _take(self, node: str, message: FromNode, payload: memoryview) -> None:
        """One frame of an admitted node."""
        match message:
            case Hidden():
                self._send_to(self._relay.hidden(node, message, payload))
            case Scores():
                candidates = self._relay.scores(node, message, payload)
                if candidates is not None:
                    self._finish(message.session, message.step, candidates)
            case Failed():
                self._fail(node, message)
            case Kept():
                if self._relay.kept(node, message):
                    self._finish(message.session, message.step, [])
            case Pong():
                self.swarm.nodes[node].held = message.sessions
            case Exported():
                self._handover.part(node, message, payload)
            case Imported():
                self._handover.imported(node, message)
            case Leaving():
                self._apply(Leaves(node))
            case Loading(fraction):
                self._apply(Progressed(node, fraction))
            case Ready():
                shares = message.shares if may_share(message.shares, self._hosts[node]) else ""
                self._apply(BecameReady(node, structs.replace(message, shares=shares)))
                log.info("%s serves layers %s.", self._name(node), self.swarm.nodes[node].span)
            case Threads(threads):
                self._apply(Resized(node, threads))
            case Greeting() | Hello():
                raise WireError("A second hello came on one socket.")

    def _fail(self, node: str, message: Failed) -> None:
        """A node could not run a step: its session goes on without it. If it was to rebuild one, the route stays."""
        step = self._relay.failed(node, message)
        if step is None:
            return
        reason = f"{self._name(node)} could not run a step: {message.reason}"
        if step.keep:
            self._relay.restart(message.session)
            self._end_steps(message.session, RebuildFailed(reason))
            return
        self.swarm.nodes[node].forget(message.session)
        self._send_to((node, encode(Close(message.session))))
        self._break(message.session, reason, node)

    def _measure(self, hop: Hop) -> None:
        node = self.swarm.nodes.get(hop.node)
        if node is not None and hop.compute_s:  # what comes from a journal took none
            node.measure.note(hop, node.span, node.open_sessions)
            self.ledger.earn(node.key, node.entry.account, hop.rows * len(hop.span))
        self.auditor.stepped(hop)

    def _watch_on(self) -> None:
        """Look after the nodes, as long as there are any."""
        if self._looking is None and self._outboxes and not self._stopping:
            self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = None
        serving = {name: node.measure for name, node in self.swarm.nodes.items() if node.state is not NodeState.LOADING}
        for found in self._watch.look(self._relay.clock(), self._relay.awaited(), serving):
            match found:
                case Ask(node):
                    self._send_to((node, encode(Ping(next(self._pings)))))
                case Stalled(node, reason):
                    self._handover.lost(node)
                    log.warning("%s is passed over: %s.", self._name(node), reason)
                    self._apply(found)
                case Revived(node):
                    log.info("%s is used again.", self._name(node))
                    self._apply(found)
        if next(self._looks) % _REBALANCE_LOOKS == 0:
            self._apply(Rebalance())
        self._watch_on()

    def _apply(self, event: Event) -> None:
        actions = self.swarm.handle(event)
        if broken := [action for action in actions if isinstance(action, Break)]:
            log.warning("%s Others take over its sessions (%d).", broken[0].reason, len(broken))
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Admit(node, span):
                peers, ticket = choose_peers(span, self.swarm.nodes.values()), self.tickets.issue(node)
                self._outboxes[node].put(encode(self._terms.welcome(node, span, ticket, peers, self._peer_token)))
                log.info("%s joins for layers %s.", self._name(node), span)
            case Refuse(_, reason):
                raise Refused(reason)
            case Break(session, reason):
                if self._admission.drop(session):
                    self._send_to(*self._relay.close(session))
                else:
                    self._break(session, reason)
            case Tell(node, text):
                self._send_to((node, encode(Notice(text))))
            case LetGo(node):
                self._send_to((node, encode(Released())))
            case Changed():
                self._changed.set()
                self._changed = asyncio.Event()
                self._line.call()

    def _send_to(self, *outgoing: Outgoing | None) -> None:
        for item in outgoing:
            if item is not None and item[0] in self._outboxes:
                self._outboxes[item[0]].put(item[1])

    def _finish(self, session: int, step: int, result: list[Candidates] | list[bytes]) -> None:
        future = self._results.pop((session, step), None)
        if future is not None and not future.done():
            future.set_result(result)

    def _break(self, session: int, reason: str, node: str | None = None) -> None:
        """The session cannot go on before it is mended; its steps that are under way end with RouteLost."""
        self._relay.lose(session)
        self._end_steps(session, RouteLost(reason, node))

    def _end_steps(self, session: int, error: PotluckError) -> None:
        for key in self._steps_of(session):
            future = self._results.pop(key)
            if not future.done():
                future.set_exception(error)

    def _steps_of(self, session: int) -> Iterable[tuple[int, int]]:
        return [key for key in self._results if key[0] == session]

    @property
    def row_bytes(self) -> int:
        """Of one hidden row on the wire."""
        return self._relay.row_bytes

    @property
    def waiting(self) -> int:
        """Requests in the line."""
        return len(self._line)

    @property
    def queue(self) -> list[Standing]:
        """The first of them, in their order."""
        return self._line.standings(_MOST_SHOWN)

    def stop(self) -> None:
        """The coordinator goes: answers under way end with an error now, and none begins."""
        self._stopping = True
        for future in self._results.values():
            if not future.done():
                future.set_exception(_stopped())
        self.auditor.stop()
        for timer in (self._expiry, self._looking):
            if timer is not None:
                timer.cancel()
        self._act(Changed())

    async def changed_before(self, deadline: float) -> bool:
        """Wait until room or coverage may have grown; False when the loop's clock reaches `deadline` first."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def open(
        self,
        positions: int,
        tokens: Sequence[int] = (),
        avoid: Collection[str] = (),
        *,
        claim: Claim = EVERYONE,
        urgent: bool = False,
    ) -> Session:
        """A session with room for so many positions on every stage, as soon as it is its turn and there is room.

        tokens: what will be fed; a parked session that begins alike is taken over. Without them it is a new one.
        avoid: nodes that are taken only where there is no other way. urgent: an answer that was interrupted.
        Raises Unavailable when layers are uncovered or no node could ever hold it, Busy when too many wait.
        """
        number, prompt = next(self._numbers), np.array(tokens, np.int32)
        if self._stopping:
            raise _stopped()
        self.swarm.check(positions)  # whoever cannot be served at all shall not wait to learn it
        place = self._line.join(claim, positions * self.swarm.layers, urgent=urgent)
        try:
            while True:
                if self._line.is_first(place):
                    grant = self._grant(place, number, positions, prompt, avoid)
                    if grant is not None:
                        self._line.start(place)
                        self._places[grant.number] = place
                        return self._session(grant, positions, len(prompt))
                await place.wait()
                if self._stopping:
                    raise _stopped()
        finally:
            self._line.leave(place)

    def _grant(self, place: Place, number: int, positions: int, prompt: Ids, avoid: Collection[str]) -> Grant | None:
        """Only an interactive request may take all room: others leave as much as the longest one needs.

        Where there is never so much, the others are admitted while no interactive one runs (and none waits, because
        it would be first).
        """
        spare = self._terms.context if self._line.yields(place) else 0
        if spare and not self.swarm.could_hold(positions + spare, sessions=2):
            if self._line.runs(Rank.INTERACTIVE):
                return None
            spare = 0
        return self._admission.grant(number, positions, prompt, avoid, spare)

    def _session(self, grant: Grant, positions: int, prompt: int) -> Session:
        for number in grant.evicted:
            self._send_to(*self._relay.close(number))
        if not self._relay.is_open(grant.number):  # one that was parked still is
            self._relay.open(grant.number, grant.route, version=1)
            self.auditor.opened(grant.number, grant.route, prompt)
        return Session(grant, positions, self)

    def is_open(self, session: Session) -> bool:
        """Whether steps of it can run."""
        return self._relay.is_open(session.number)

    def wants_mending(self, session: Session) -> bool:
        return not self.is_open(session) or self.swarm.wants_mending(session.number, session.route)

    def turn(self, session: Session, rank: int) -> AbstractAsyncContextManager[None]:
        """Wait until it is the session's turn to be mended; the lowest rank comes first."""
        return self._turns.turn(self.swarm.due(session.number, session.route) or "", rank)

    def going(self, session: Session) -> list[Stage]:
        """The stages that are about to leave and may hand over what they hold, if there are heirs."""
        route, positions = session.route, session.positions
        if not self.is_open(session) or not self.swarm.can_mend_without_parked(session.number, route, positions):
            return []
        return self.swarm.going(session.number, route)

    async def fetch_state(self, session: int, node: str) -> bytes:
        """What the node holds of the session, or nothing where computing it anew is quicker than sending it."""
        return await self._handover.fetch(node, session, self.swarm.worth_moving(node, session))

    async def bring_state(self, session: int, node: str, state: bytes) -> int:
        """How many positions of the session the node holds then."""
        return await self._handover.bring(node, session, state)

    def mend(self, session: Session, avoid: Collection[str]) -> tuple[tuple[int, int], ...] | None:
        """Other nodes in place of those of its route that are lost or about to leave; None when there are none now.

        Returns the runs (first, last) of its stages that hold nothing of the session yet.
        """
        found = self._admission.mend(session.number, session.route, session.positions, avoid)
        if found is None:
            if not self.is_open(session):
                self._give_up(session)
            return None
        mended, evicted = found
        for number in evicted:
            self._send_to(*self._relay.close(number))
        self._send_to(*self._relay.reroute(session.number, mended.route))
        session.route = mended.route
        for action in self.swarm.let_go():
            self._act(action)
        return mended.runs

    def _give_up(self, session: Session) -> None:
        frame = encode(Close(session.number))
        self._send_to(*((node, frame) for node in self.swarm.give_up(session.number, session.route)))
        for action in self.swarm.let_go():
            self._act(action)

    async def run_step(self, step: Step, tokens: Ids) -> list[Candidates]:
        """Through the whole route. Raises RouteLost when a stage is lost."""
        candidates: list[Candidates] = await self._run(step, lambda: self._relay.start(step, pack_ids(tokens)))
        return candidates

    async def run_rebuild(self, step: Step, tokens: Ids, first: int, goal: int) -> None:
        """A step with `keep` through the stages `first` … `goal`. Raises RouteLost or RebuildFailed."""
        await self._run(step, lambda: self._relay.rebuild(step, pack_ids(tokens), first, goal))

    def quarantine(self, node: str, reason: str) -> None:
        """The node is not used any more, nor are others that have its key."""
        log.warning("%s is put in quarantine: %s.", self._name(node), reason)
        known = self.swarm.nodes.get(node)
        mates = [name for name, other in self.swarm.nodes.items() if known is not None and other.key == known.key]
        for name in {node, *mates}:
            self._apply(Quarantined(name, reason))
        if known is not None:
            self.on_quarantined(known.key, reason)

    def note_suspects(self, nodes: Iterable[str], reason: str) -> None:
        log.warning("%s: %s.", ", ".join(map(self._name, nodes)), reason)

    def open_audit(self, node: str, evidence: Evidence) -> int | None:
        """The number of a session in which this node computes what another did; None where it has no room now."""
        number = next(self._numbers)
        evicted = self._admission.reserve_on(node, number, len(evidence.given))
        if evicted is None:
            return None
        for parked in evicted:
            self._send_to(*self._relay.close(parked))
        stage = structs.replace(evidence.stage, node=node)
        self._relay.open_audit(number, stage, evidence)
        return number

    async def run_audit(self, step: Step, payload: bytes) -> list[bytes]:
        """What the node makes of this input, row by row. Raises RouteLost when it is gone, or cannot."""
        rows: list[bytes] = await self._run(step, lambda: self._relay.start(step, payload))
        return rows

    async def _run(self, step: Step, start: Callable[[], Outgoing]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        key = (step.session, step.step)
        if self._stopping:
            raise _stopped()
        if not self._relay.is_open(step.session):
            raise RouteLost("A node of the session's route has left.")
        self._results[key] = future
        try:
            self._send_to(start())
            return await future
        finally:
            self._results.pop(key, None)

    def settle(self, number: int, tokens: int) -> None:
        """The answer that ran in this session has ended, if it has not before: its account pays for so many tokens."""
        place = self._places.pop(number, None)
        if place is not None:
            self._line.end(place, tokens * self.swarm.layers)
            self.ledger.spend(place.turn.claim.account, tokens * self.swarm.layers)

    def close_session(self, number: int) -> None:
        self._admission.drop(number)
        self._send_to(*self._relay.close(number))
        for action in self.swarm.release(number):
            self._act(action)

    def park_session(self, number: int, route: tuple[Stage, ...], tokens: Sequence[int], steps: int) -> None:
        """Keep what the nodes hold for a while; a session that lost its route, or is not worth it, is closed."""
        now = asyncio.get_running_loop().time()
        session = Parked(number, route, np.array(tokens, np.int32), steps, now)
        if self._stopping or not self._relay.is_open(number) or not self._admission.park(session):
            self.close_session(number)
            return
        self._relay.witness.close(number)
        if self._expiry is None:
            self._set_expiry()
        self._act(Changed())

    def _set_expiry(self) -> None:
        """Parked sessions go in time, whether or not another request comes."""
        when = self._admission.next_expiry
        self._expiry = None if when is None else asyncio.get_running_loop().call_at(when, self._expire)

    def _expire(self) -> None:
        for number in self._admission.expired(asyncio.get_running_loop().time()):
            self.close_session(number)
        self._set_expiry()
