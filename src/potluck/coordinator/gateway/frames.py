"""Acts on each frame of an admitted node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from msgspec import structs

from potluck.coordinator.gateway.driver import Driver
from potluck.coordinator.gateway.lookout import Lookout
from potluck.coordinator.gateway.meter import Meter
from potluck.coordinator.gateway.peers import may_share
from potluck.coordinator.gateway.stays import Stays
from potluck.coordinator.members.limits import Limits
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.relay.relay import Answered, Relay
from potluck.coordinator.relay.trace import Hop
from potluck.coordinator.sessions.handover import Handover
from potluck.coordinator.swarm.events import BecameReady, Leaves, Pauses, Progressed, Resized, Resumes
from potluck.coordinator.swarm.heartbeat import Heartbeat
from potluck.coordinator.swarm.node import Node, called
from potluck.coordinator.swarm.suspects import Suspects
from potluck.errors import RebuildFailed, WireError
from potluck.types import NodeState
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.messages import (
    Close,
    Exported,
    Failed,
    FromNode,
    Greeting,
    GuesserSays,
    Hello,
    Hidden,
    Imported,
    Kept,
    Leaving,
    Loading,
    Pause,
    Pong,
    Ready,
    Resume,
    Scores,
    Threads,
)

log = logging.getLogger(__name__)

_CHATTER_PER_MINUTE = 600
"""The most frames of a node in a minute that answer nothing. Honest nodes send two or three a second."""


class Frames:
    """Takes frames. nodes: those that are admitted. send: puts frames into outboxes."""

    def __init__(
        self,
        nodes: dict[str, Node],
        stays: Stays,
        relay: Relay,
        pending: PendingSteps,
        handover: Handover,
        driver: Driver,
        heartbeat: Heartbeat,
        lookout: Lookout,
        meter: Meter,
        send: Callable[..., None],
    ) -> None:
        self._nodes = nodes
        self._stays = stays
        self._relay = relay
        self._pending = pending
        self._handover = handover
        self._driver = driver
        self._heartbeat = heartbeat
        self._lookout = lookout
        self._meter = meter
        self._send = send
        self._chatter = Limits()
        self._suspects = Suspects()

    def take(self, node: str, frames: Iterable[bytes]) -> None:
        """Take frames that have come together. Raises WireError for one that a good node does not send."""
        self._lookout.heard(node)
        hops: list[Hop] = []
        try:
            for frame in frames:
                self._take(node, frame, hops)
        finally:
            if hops:
                self._meter.note(node, hops)

    def _take(self, node: str, frame: bytes, hops: list[Hop]) -> None:
        """Take a frame. hops: what it ends is added to these."""
        message, payload = decode_from_node(frame)
        match message:
            case Hidden():
                self._go_on(message, self._relay.hidden(node, message, payload), hops)
            case Scores():
                self._go_on(message, self._relay.scores(node, message, payload), hops)
            case Kept():
                self._go_on(message, self._relay.kept(node, message), hops)
            case Failed():
                self._fail(node, message)
            case Exported():
                if not self._handover.part(node, message, payload):
                    self._check_chatter(node)
            case _:
                self._check_chatter(node)
                self._note(node, message)

    def _check_chatter(self, node: str) -> None:
        """Raises WireError when a node sends too many frames that answer no step."""
        if self._chatter.wait_s(node, _CHATTER_PER_MINUTE, self._relay.clock()):
            raise WireError("The node floods the coordinator with frames that answer nothing.")

    def _go_on(self, message: Hidden | Scores | Kept, answered: Answered | None, hops: list[Hop]) -> None:
        """Let a step continue at its next stage, or return to whoever awaits its end."""
        if answered is None:
            return
        if answered.onward is not None:
            self._send(answered.onward)
        if answered.result is not None:
            self._pending.finish(message.session, message.step, answered.result)
            if answered.hop is not None and not isinstance(message, Kept):
                self._clear_up(answered.hop)
        if answered.hop is not None:
            hops.append(answered.hop)

    def _clear_up(self, hop: Hop) -> None:
        """Blame the node that could not run what this step has now got through."""
        suspect = self._suspects.ran(hop.session, hop.position + hop.rows)
        if suspect in self._nodes:
            self._heartbeat.ran(suspect, hop.received, failed=True)

    def _fail(self, node: str, message: Failed) -> None:
        """Let a session continue without a node that could not run a step. If the step was to rebuild one, the route
        stays.
        """
        step = self._relay.failed(node, message)
        if step is None:
            return
        # A journal may be short without any fault, and one that pauses has said so.
        if not step.keep and self._nodes[node].state is not NodeState.PAUSED:
            self._suspects.failed(message.session, node, step.position + step.rows)
        reason = f"{called(self._nodes, node)} could not run a step: {message.reason}"
        if step.keep:
            self._relay.restart(message.session)
            self._pending.end(message.session, RebuildFailed(reason))
            return
        self._nodes[node].forget(message.session)
        self._send((node, encode(Close(message.session))))
        self._pending.lose(message.session, reason, node)

    def _note(self, node: str, message: FromNode) -> None:
        """Note what the node says about itself."""
        match message:
            case Pong():
                self._nodes[node].held = message.sessions
            case Imported():
                self._handover.imported(node, message)
            case Leaving():
                self._driver.apply(Leaves(node))
            case Pause(reason):
                self._driver.apply(Pauses(node, reason))
            case Resume():
                self._driver.apply(Resumes(node))
            case Loading(fraction):
                before = self._nodes[node].fraction
                self._driver.apply(Progressed(node, fraction))
                if self._nodes[node].fraction > before:
                    self._lookout.got_on(node)
            case Ready():
                shares = message.shares if may_share(message.shares, self._stays.host(node)) else ""
                self._driver.apply(BecameReady(node, structs.replace(message, shares=shares)))
                log.info("%s serves layers %s.", called(self._nodes, node), self._nodes[node].span)
            case Threads(threads):
                self._driver.apply(Resized(node, threads))
            case Greeting() | Hello():
                raise WireError("A second hello came on one socket.")
            case GuesserSays():
                raise WireError("A node that serves layers sent a guess.")
