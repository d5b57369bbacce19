"""The coordinator's end of the web-sockets: admits nodes, looks after them, and carries frames between them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from msgspec import structs
from starlette.types import Receive, Scope, Send

from potluck.coordinator.audits.auditor import Auditor
from potluck.coordinator.audits.audits import Audits, no_audits
from potluck.coordinator.gateway.entrance import Entrance
from potluck.coordinator.gateway.lookout import Lookout
from potluck.coordinator.gateway.peers import choose_peers, may_share
from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.gateway.socket import Outbox, ServerLink, farewell
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.members.limits import Limits
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.relay.relay import Outgoing, Relay
from potluck.coordinator.relay.trace import Hop
from potluck.coordinator.sessions.manager import SessionManager
from potluck.coordinator.swarm.events import (
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
    Pauses,
    Progressed,
    Quarantined,
    Refuse,
    Resized,
    Resumes,
    Revived,
    Stalled,
    Tell,
)
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import (
    IdentityError,
    LinkClosed,
    RebuildFailed,
    Refused,
    StoreError,
    WireError,
)
from potluck.types import NodeState
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
    Pause,
    PeerToken,
    Pong,
    Ready,
    Released,
    Resume,
    Scores,
    Threads,
)

log = logging.getLogger(__name__)

_CHATTER_PER_MINUTE = 600
"""Frames of a node that answer nothing: honest ones send two or three a second."""


def _current_task() -> asyncio.Task[Any]:
    """The one that runs this."""
    task = asyncio.current_task()
    assert task is not None
    return task


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
        self._entrance = Entrance(reception, relay.clock)
        self._relay = relay
        self._terms = terms
        self._outboxes: dict[str, Outbox] = {}
        self._numbers = itertools.count(1)
        self._chatter = Limits()
        self._hosts: dict[str, str] = {}
        self._peer_token = secrets.token_urlsafe(32)
        self._lookout = Lookout(swarm, relay, self._apply, self._send_to, self._end_stay)
        self.pending = PendingSteps(relay, self._send_to)
        self.auditor = Auditor(self, relay, audits or no_audits(), self.ledger)
        self.sessions = SessionManager(
            swarm,
            relay,
            self.pending,
            self.ledger,
            terms.context,
            self._numbers,
            self._send_to,
            self._act,
            self.auditor,
        )
        self.on_quarantined: Callable[[bytes, str], None] = lambda *_: None
        """Is given a node's key and what it did: whoever keeps lists of nodes."""
        relay.on_hop = self._measure
        relay.on_raw = self.pending.finish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The route `/node`, as an ASGI application."""
        link = ServerLink(receive, send)
        await link.accept()
        if self._entrance.is_full:
            await link.close()  # without a word: whoever is honest tries again
            return
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
            if node not in self.swarm.nodes:  # it only asked
                return
            self._lookout.heard(node)
            while True:
                message, payload = decode_from_node(await link.receive())
                self._lookout.heard(node)
                if not isinstance(message, Hidden | Scores | Kept | Failed | Exported):
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
            self._lookout.forget(node)
            self._relay.forget(node)
            self._apply(Left(node))  # before the farewell, which a node that does not read would hold up
            await farewell(link, reason)

    def cut(self, key: bytes, reason: str) -> None:
        """Nodes with this public key go now, with the reason; their sessions go on without them.

        What they know of the others' tokens is worth nothing then. Those that the door let in a moment ago, and that
        are not admitted yet, stay outside.
        """
        self._entrance.shut(key)
        for name, known in self.swarm.nodes.items():
            if known.key == key:
                self._end_stay(name, reason)
        self._renew_peer_token()

    def _renew_peer_token(self) -> None:
        """The one that a node takes along opens nothing, whether it was here when it was revoked or had left."""
        self._peer_token = secrets.token_urlsafe(32)
        frame = encode(PeerToken(self._peer_token))
        self._send_to(*((node, frame) for node in self.swarm.nodes.keys() - self._cut.keys()))

    def pardon(self, key: bytes) -> None:
        """The owner lets nodes with this key in again, from the next time that they come."""
        self._entrance.reopen(key)
        self.swarm.pardon(key)

    def trust(self, key: bytes, *, trusted: bool) -> None:
        """The owner vouches for nodes with this key, from the next audit on, or does not any more."""
        for node in self.swarm.nodes.values():
            if node.key == key:
                node.entry = replace(node.entry, trusted=trusted)

    def _check_chatter(self, node: str) -> None:
        """Raises WireError when a node sends too many frames that answer no step."""
        if self._chatter.wait_s(node, _CHATTER_PER_MINUTE, self._relay.clock()):
            raise WireError("The node floods the coordinator with frames that answer nothing.")

    def _name(self, node: str) -> str:
        known = self.swarm.nodes.get(node)
        return f"Node {known.name} ({node})" if known else f"Node {node}"

    async def _admit(self, node: str, link: Link) -> None:
        with self._entrance.stranger():
            joined = await self._entrance.introduce(node, link)
            if joined.hello.joins:
                self._apply(joined)
            else:
                await self._show(joined, link)

    async def _show(self, joined: Joined, link: Link) -> None:
        """What the node would be given. For a while, or until it hangs up, its ticket opens the manifest."""
        self._welcome(joined.node, self.swarm.newcomer(joined), peer_token="")
        await self._entrance.linger(link)

    def _welcome(self, name: str, node: Node, peer_token: str) -> None:
        """To the span that it has now, or would have."""
        peers, ticket = choose_peers(node.span, self.swarm.nodes.values()), self.tickets.issue(name)
        prospect = self.swarm.prospect(name, node)
        self._outboxes[name].put(encode(self._terms.welcome(name, node.span, ticket, peers, peer_token, prospect)))

    def _take(self, node: str, message: FromNode, payload: memoryview) -> None:
        """One frame of an admitted node."""
        match message:
            case Hidden():
                self._send_to(self._relay.hidden(node, message, payload))
            case Scores():
                candidates = self._relay.scores(node, message, payload)
                if candidates is not None:
                    self.pending.finish(message.session, message.step, candidates)
            case Failed():
                self._fail(node, message)
            case Kept():
                if self._relay.kept(node, message):
                    self.pending.finish(message.session, message.step, [])
            case Pong():
                self.swarm.nodes[node].held = message.sessions
            case Exported():
                if not self.sessions.handover.part(node, message, payload):
                    self._check_chatter(node)
            case Imported():
                self.sessions.handover.imported(node, message)
            case Leaving():
                self._apply(Leaves(node))
            case Pause(reason):
                self._apply(Pauses(node, reason))
            case Resume():
                self._apply(Resumes(node))
            case Loading(fraction):
                before = self.swarm.nodes[node].fraction
                self._apply(Progressed(node, fraction))
                if self.swarm.nodes[node].fraction > before:
                    self._lookout.got_on(node)
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
        # A journal may be short without any fault, and one that pauses has said so.
        faulty = not step.keep and self.swarm.nodes[node].state is not NodeState.PAUSED
        self._lookout.ran(node, failed=faulty)
        reason = f"{self._name(node)} could not run a step: {message.reason}"
        if step.keep:
            self._relay.restart(message.session)
            self.pending.end(message.session, RebuildFailed(reason))
            return
        self.swarm.nodes[node].forget(message.session)
        self._send_to((node, encode(Close(message.session))))
        self.pending.lose(message.session, reason, node)

    def _measure(self, hop: Hop) -> None:
        node = self.swarm.nodes.get(hop.node)
        self._lookout.ran(hop.node, failed=False)
        if node is not None:
            node.measure.note(hop, node.span, node.open_sessions)
            self.swarm.tally.rows += hop.rows
            node.rows += hop.rows
            asker = self.sessions.account_of(hop.session)
            if asker != node.entry.account:  # whoever works for themselves earns nothing
                self.ledger.earn(node.key, node.entry.account, hop.rows * len(hop.span))
        self.auditor.stepped(hop)

    def _end_stay(self, node: str, reason: str) -> None:
        if node not in self._cut:
            self._cut[node] = reason
            self._stays[node].cancel()

    def _apply(self, event: Event) -> None:
        self._note(event)
        actions = self.swarm.handle(event)
        if broken := [action for action in actions if isinstance(action, Break)]:
            log.warning("%s Others take over its sessions (%d).", broken[0].reason, len(broken))
        for action in actions:
            self._act(action)

    def _note(self, event: Event) -> None:
        """What others than the swarm have to know of it."""
        match event:
            case Left(node):
                self.sessions.handover.lost(node)
            case Stalled(node, reason):
                self.sessions.handover.lost(node)
                log.warning("%s is passed over: %s.", self._name(node), reason)
            case Revived(node):
                log.info("%s is used again.", self._name(node))
            case Pauses(node, reason):
                log.info("%s pauses: %s.", self._name(node), reason)
            case Resumes(node):
                log.info("%s goes on.", self._name(node))

    def _act(self, action: Action) -> None:
        match action:
            case Admit(node, span):
                self._welcome(node, self.swarm.nodes[node], self._peer_token)
                log.info("%s joins for layers %s.", self._name(node), span)
            case Refuse(_, reason):
                raise Refused(reason)
            case Break(session, reason):
                if not self.sessions.drop_parked(session):
                    self.pending.lose(session, reason)
            case Tell(node, text):
                self._send_to((node, encode(Notice(text))))
            case LetGo(node):
                self._send_to((node, encode(Released())))
            case Changed():
                self.sessions.changed()

    def _send_to(self, *outgoing: Outgoing | None) -> None:
        for item in outgoing:
            if item is not None and item[0] in self._outboxes:
                self._outboxes[item[0]].put(item[1])

    def quarantine(self, node: str, key: bytes, reason: str) -> None:
        """The node is not used any more, nor are others that have its key, nor whoever comes with it later."""
        log.warning("%s is put in quarantine: %s.", self._name(node), reason)
        mates = {name for name, other in self.swarm.nodes.items() if other.key == key}
        for name in sorted({node, *mates}):
            self._apply(Quarantined(name, key, reason))
        self.on_quarantined(key, reason)

    def note_suspects(self, nodes: Iterable[str], reason: str) -> None:
        log.warning("%s: %s.", ", ".join(map(self._name, nodes)), reason)

    def stop(self) -> None:
        """The coordinator goes: answers under way end with an error now, and none begins."""
        self.pending.stop()
        self.auditor.stop()
        self._lookout.stop()
        self.sessions.stop()
