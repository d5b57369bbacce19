"""Drives the swarm's state machine: tells it what happens, and does what it says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

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
from potluck.coordinator.swarm.node import called
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import Refused
from potluck.wire.codec import encode
from potluck.wire.messages import Notice, Released

log = logging.getLogger(__name__)


class Driver:
    """Drives one swarm. send: puts frames into outboxes.

    on_quarantined: receives a node's key and what it did, for whoever keeps lists of nodes.
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
        on_quarantined: Callable[[bytes, str], None],
    ) -> None:
        self._swarm = swarm
        self._relay = relay
        self._pending = pending
        self._admission = admission
        self._handover = handover
        self._welcomes = welcomes
        self._changes = changes
        self._send = send
        self._on_quarantined = on_quarantined

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
        """Stop using the node, all others with its key, and whoever comes with this key later."""
        log.warning("%s is put in quarantine: %s.", self._called(node), reason)
        mates = {name for name, other in self._swarm.nodes.items() if other.key == key}
        for name in sorted({node, *mates}):
            self.apply(Quarantined(name, key, reason))
        self._on_quarantined(key, reason)

    def _called(self, node: str) -> str:
        return called(self._swarm.nodes, node)
