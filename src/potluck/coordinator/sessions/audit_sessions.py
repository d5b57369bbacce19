"""Opens sessions on one node alone, in which it computes what another one did."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import structs

from potluck.coordinator.relay.evidence import Evidence
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.sessions.admission import Admission
from potluck.coordinator.sessions.closing import Closing


class AuditSessions:
    """Opens audits' sessions. numbers: those of the sessions. send: puts frames into outboxes."""

    def __init__(
        self,
        admission: Admission,
        relay: Relay,
        closing: Closing,
        numbers: Iterator[int],
        send: Callable[..., None],
    ) -> None:
        self._admission = admission
        self._relay = relay
        self._closing = closing
        self._numbers = numbers
        self._send = send

    def open(self, node: str, evidence: Evidence) -> int | None:
        """Open a session in which this node computes what another did. Returns its number; None if there is no room
        now.
        """
        number = next(self._numbers)
        evicted = self._admission.reserve_on(node, number, len(evidence.given))
        if evicted is None:
            return None
        for parked in evicted:
            self._send(*self._relay.close(parked))
        stage = structs.replace(evidence.stage, node=node)
        self._relay.open_audit(number, stage, evidence)
        return number

    def close(self, number: int) -> None:
        """Let the node forget the session."""
        self._closing.close(number)
