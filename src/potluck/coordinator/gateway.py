"""The coordinator's end of the web-sockets: admits nodes, carries frames between them, and opens sessions."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from starlette.types import Receive, Scope, Send

from potluck.coordinator.admission import Admission, Grant
from potluck.coordinator.line import Line
from potluck.coordinator.parked import Parked
from potluck.coordinator.relay import Outgoing, Relay
from potluck.coordinator.sampling import Candidates
from potluck.coordinator.swarm import (
    Action,
    Admit,
    BecameReady,
    Break,
    Changed,
    Event,
    Joined,
    Left,
    Progressed,
    Refuse,
    Resized,
    Swarm,
)
from potluck.errors import LinkClosed, Refused, RouteLost, Unavailable, WireError
from potluck.types import Attention, EngineKind, Quantize, RowFormat, Span, Stage
from potluck.wire.codec import check_version, decode_from_node, encode
from potluck.wire.link import Link
from potluck.wire.messages import (
    Failed,
    FromNode,
    Hello,
    Hidden,
    Loading,
    Ready,
    Refusal,
    Scores,
    Step,
    Threads,
    Welcome,
)
from potluck.wire.rows import Ids, pack_ids

log = logging.getLogger(__name__)

_HELLO_S = 30.0
"""How long a new socket may be silent."""

_FAREWELL_S = 2.0

_MOST_WAITING = 64
"""Requests that may wait for room; whoever comes then is better told to come again."""


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


class Session:
    """One sequence on a route; `step` runs positions through it. Close or park it, or its room stays taken.

    held: how many tokens of the request that opened it the nodes hold already, so that they need not be fed.
    """

    def __init__(self, grant: Grant, gateway: Gateway) -> None:
        self.number = grant.number
        self.route = grant.route
        self.held = grant.held
        self._gateway = gateway
        self._steps = grant.steps

    async def step(self, position: int, tokens: Ids, top: int, asks: tuple[tuple[int, ...], ...]) -> list[Candidates]:
        """Candidates for each of the last `len(asks)` of these tokens. Raises RouteLost when a stage is lost.

        position: where it is less than what the nodes hold, they forget the rest first.
        """
        step = Step(self.number, 0, self._steps, position, len(tokens), 0, top, asks, 0)
        self._steps += 1
        return await self._gateway.run_step(step, tokens)

    def park(self, tokens: Sequence[int]) -> None:
        """The end of a session that may be of use to a later request: every node holds exactly these tokens."""
        self._gateway.park_session(self.number, self.route, tokens, self._steps)

    def close(self) -> None:
        self._gateway.close_session(self.number)


@dataclass(frozen=True)
class Terms:
    """What every node of the swarm agrees on; see `Welcome`. digest: of the model. context: positions a session."""

    digest: str
    engine: EngineKind
    quantize: Quantize
    attention: Attention
    rows: RowFormat
    context: int

    def welcome(self, node: str, span: Span) -> Welcome:
        return Welcome(node, self.digest, span, self.engine, self.quantize, self.attention, self.rows, self.context)


def _stopped() -> Unavailable:
    return Unavailable("The coordinator is stopping.")


class Gateway:
    """Owns the links; asks `swarm` for decisions and `relay` for where frames go."""

    def __init__(self, swarm: Swarm, relay: Relay, terms: Terms) -> None:
        self.swarm = swarm
        self._relay = relay
        self._terms = terms
        self._outboxes: dict[str, Outbox] = {}
        self._results: dict[tuple[int, int], asyncio.Future[list[Candidates]]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._line = Line(_MOST_WAITING)
        self._admission = Admission(swarm)
        self._expiry: asyncio.TimerHandle | None = None
        self._stopping = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """The route `/node`, as an ASGI application."""
        link = ServerLink(receive, send)
        await link.accept()
        await self.serve(link)

    async def serve(self, link: Link) -> None:
        """One node's whole stay, from its hello to the end of its link."""
        node = f"n{next(self._numbers)}"
        outbox = self._outboxes[node] = Outbox(link)
        sender = asyncio.create_task(outbox.run())
        reason = None
        try:
            await self._admit(node, link)
            while True:
                self._take(node, *decode_from_node(await link.receive()))
        except LinkClosed as error:
            log.info("%s: %s", self._name(node), error)
        except (WireError, Refused) as error:
            log.warning("%s is refused: %s", self._name(node), error)
            reason = str(error)
        finally:
            sender.cancel()
            del self._outboxes[node]
            self._apply(Left(node))  # before the farewell, which a node that does not read would hold up
            await self._part(link, reason)

    def _name(self, node: str) -> str:
        known = self.swarm.nodes.get(node)
        return f"Node {known.name} ({node})" if known else f"Node {node}"

    async def _admit(self, node: str, link: Link) -> None:
        try:
            async with asyncio.timeout(_HELLO_S):
                frame = await link.receive()
        except TimeoutError as error:
            raise WireError(f"No hello came within {_HELLO_S:.0f} s.") from error
        check_version(frame)
        message, _ = decode_from_node(frame)
        assert isinstance(message, Hello)  # check_version has seen to it
        self._apply(Joined(node, message))

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
                if self._relay.failed(node, message):
                    self._break(message.session, f"{self._name(node)} could not run a step: {message.reason}", node)
            case Loading(fraction):
                self._apply(Progressed(node, fraction))
            case Ready():
                self._apply(BecameReady(node, message))
                log.info("%s serves layers %s.", self._name(node), self.swarm.nodes[node].span)
            case Threads(threads):
                self._apply(Resized(node, threads))
            case Hello():
                raise WireError("A second hello came on one socket.")

    def _apply(self, event: Event) -> None:
        for action in self.swarm.handle(event):
            self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Admit(node, span):
                self._outboxes[node].put(encode(self._terms.welcome(node, span)))
                log.info("%s joins for layers %s.", self._name(node), span)
            case Refuse(_, reason):
                raise Refused(reason)
            case Break(session, reason):
                self._admission.drop(session)
                self._break(session, reason)
            case Changed():
                self._changed.set()
                self._changed = asyncio.Event()
                self._line.call()

    def _send_to(self, *outgoing: Outgoing | None) -> None:
        for item in outgoing:
            if item is not None and item[0] in self._outboxes:
                self._outboxes[item[0]].put(item[1])

    def _finish(self, session: int, step: int, candidates: list[Candidates]) -> None:
        future = self._results.pop((session, step), None)
        if future is not None and not future.done():
            future.set_result(candidates)

    def _break(self, session: int, reason: str, node: str | None = None) -> None:
        """Every step of the session that is under way ends with RouteLost."""
        for key in self._steps_of(session):
            future = self._results.pop(key)
            if not future.done():
                future.set_exception(RouteLost(reason, node))
        self._send_to(*self._relay.close(session))

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

    def stop(self) -> None:
        """The coordinator goes: answers under way end with an error now, and none begins."""
        self._stopping = True
        for future in self._results.values():
            if not future.done():
                future.set_exception(_stopped())
        if self._expiry is not None:
            self._expiry.cancel()
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
        self, positions: int, tokens: Sequence[int] = (), avoid: Collection[str] = (), *, urgent: bool = False
    ) -> Session:
        """A session with room for so many positions on every stage, as soon as there is room; first come, first served.

        tokens: what will be fed; a parked session that begins alike is taken over. Without them it is a new one.
        avoid: nodes that are taken only where there is no other way. urgent: an answer that was interrupted.
        Raises Unavailable when layers are uncovered or no node could ever hold it, Busy when the line is full.
        """
        number, prompt = next(self._numbers), np.array(tokens, np.int32)
        if self._stopping:
            raise _stopped()
        self.swarm.check(positions)  # whoever cannot be served at all shall not wait to learn it
        place = self._line.join(urgent=urgent)
        try:
            while True:
                if self._line.is_first(place):
                    grant = self._admission.grant(number, positions, prompt, avoid)
                    if grant is not None:
                        return self._session(grant)
                await place.wait()
                if self._stopping:
                    raise _stopped()
        finally:
            self._line.leave(place)

    def _session(self, grant: Grant) -> Session:
        for number in grant.evicted:
            self._send_to(*self._relay.close(number))
        if not self._relay.is_open(grant.number):  # one that was parked still is
            self._relay.open(grant.number, grant.route, version=1)
        return Session(grant, self)

    async def run_step(self, step: Step, tokens: Ids) -> list[Candidates]:
        future: asyncio.Future[list[Candidates]] = asyncio.get_running_loop().create_future()
        key = (step.session, step.step)
        if self._stopping:
            raise _stopped()
        if not self._relay.is_open(step.session):
            raise RouteLost("A node of the session's route has left.")
        self._results[key] = future
        try:
            self._send_to(self._relay.start(step, pack_ids(tokens)))
            return await future
        finally:
            self._results.pop(key, None)

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
