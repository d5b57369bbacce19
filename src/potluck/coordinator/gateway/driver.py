"""Drives the swarm's state machine: tells it what happens, and does what it says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from potluck.coordinator.gateway.welcomes import Welcomes
from potluck.coordinator.relay.pending import PendingSteps
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.sessions.admission import Admission
from potluck.coordinator.sessions.handover import Handover
from potluck.coordinator.swarm.changes import Changes
from potluck.coordinator.swarm.events import (
    Action,
    Admit,
    Break,
    Changed,
    Event,
    Left,
    LetGo,
    Pauses,
    Quarantined,
    Refuse,
    Resumes,
    Revived,
    Stalled,
    Tell,
)
from potluck.coordinator.swarm.node import called, is_lent
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.topic import Topic
from potluck.errors import Refused
from potluck.types import NodeState
from potluck.wire.codec import encode
from potluck.wire.messages import Notice, Released

log = logging.getLogger(__name__)


class Caught(NamedTuple):
    """A node that was caught lying. key: its public key. reason: what it did, as the end of a sentence."""

    key: bytes
    reason: str


class Driver:
    """Drives one swarm. send: puts frames into outboxes.

    caught: tells of nodes that were caught, for all swarms and for whoever keeps lists of nodes.
    lent: tells of nodes that may go to another model now.
    """

    def __init__(
        self,
        swarm: Swarm,
        relay: Relay,
        pending: PendingSteps,
        admission: Admission,
        handover: Handover,
        welcomes: Welcomes,
        changes: Changes,
        send: Callable[..., None],
        caught: Topic[Caught],
        lent: Topic[str],
    ) -> None:
        self._swarm = swarm
        self._relay = relay
        self._pending = pending
        self._admission = admission
        self._handover = handover
        self._welcomes = welcomes
        self._changes = changes
        self._send = send
        self._caught = caught
        self._lent = lent
        caught.listen(self._shun)

    def apply(self, event: Event) -> None:
        """Apply an event. Raises Refused when a node cannot join."""
        self._note(event)
        actions = self._swarm.handle(event)
        if broken := [action for action in actions if isinstance(action, Break)]:
            log.warning("%s Others take over its sessions (%d).", broken[0].reason, len(broken))
        self.act(actions)

    def _note(self, event: Event) -> None:
        """Tell others besides the swarm what they have to know of an event."""
        match event:
            case Left(node):
                self._handover.lost(node)
            case Stalled(node, reason):
                self._handover.lost(node)
                log.warning("%s is passed over: %s.", self._called(node), reason)
            case Revived(node):
                log.info("%s is used again.", self._called(node))
            case Pauses(node, reason):
                log.info("%s pauses: %s.", self._called(node), reason)
            case Resumes(node):
                log.info("%s continues.", self._called(node))

    def act(self, actions: Iterable[Action]) -> None:
        """Do what the swarm says."""
        for action in actions:
            match action:
                case Admit(node, span):
                    self._welcomes.admit(node)
                    log.info("%s joins for layers %s.", self._called(node), span)
                case Refuse(_, reason):
                    raise Refused(reason)
                case Break(session, reason):
                    self._break(session, reason)
                case Tell(node, text):
                    self._send((node, encode(Notice(text))))
                case LetGo(node) if is_lent(self._swarm.nodes[node]):
                    self._lent.tell(node)
                case LetGo(node):
                    self._send((node, encode(Released())))
                case Changed():
                    self._changes.tell()

    def _break(self, session: int, reason: str) -> None:
        """Break a session that has lost a stage.

        One that is parked is kept for the sake of the other stages, if there are any: it is mended when somebody
        continues it.
        """
        if not self._admission.is_parked(session):
            self._pending.lose(session, reason)
        elif holders := self._swarm.kv_budget.holders(session):
            self._send(*self._relay.abandon(session, holders))
        else:
            self._admission.drop(session)
            self._swarm.kv_budget.release(session)
            self._send(*self._relay.close(session))

    def quarantine(self, node: str, key: bytes, reason: str) -> None:
        """Stop using the node, all others with its key, and whoever comes with this key later, in all swarms."""
        log.warning("%s is put in quarantine: %s.", self._called(node), reason)
        self.apply(Quarantined(node, key, reason))
        self._caught.tell(Caught(key, reason))

    def _shun(self, caught: Caught) -> None:
        """Stop using all nodes with this key."""
        self._swarm.shun(caught.key, caught.reason)
        nodes = self._swarm.nodes.items()
        mates = [name for name, other in nodes if other.key == caught.key and other.state is not NodeState.QUARANTINED]
        for name in sorted(mates):
            self.apply(Quarantined(name, caught.key, caught.reason))

    def _called(self, node: str) -> str:
        return called(self._swarm.nodes, node)
