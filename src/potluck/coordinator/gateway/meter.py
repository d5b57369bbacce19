"""Books every hop: how fast its node is, that it lives, what its owner earns, and when it is audited."""

from __future__ import annotations

from collections.abc import Mapping

from potluck.coordinator.audits.auditor import Auditor
from potluck.coordinator.members.ledger import Ledger
from potluck.coordinator.relay.trace import Hop
from potluck.coordinator.sessions.payers import Payers
from potluck.coordinator.swarm.heartbeat import Heartbeat
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.tally import Tally


class Meter:
    """Books hops. ledger: where the nodes' work is booked. payers: those for whom it was done."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        tally: Tally,
        heartbeat: Heartbeat,
        ledger: Ledger,
        payers: Payers,
        auditor: Auditor,
    ) -> None:
        self._nodes = nodes
        self._tally = tally
        self._heartbeat = heartbeat
        self._ledger = ledger
        self._payers = payers
        self._auditor = auditor

    def note(self, hop: Hop) -> None:
        """Note that a node has answered a step."""
        node = self._nodes.get(hop.node)
        self._heartbeat.ran(hop.node, hop.received, failed=False)
        if node is not None:
            node.measure.note(hop, node.span, node.open_sessions)
            self._tally.rows += hop.rows
            node.rows += hop.rows
            if self._payers.account_of(hop.session) != node.entry.account:  # whoever works for themselves earns nothing
                self._ledger.earn(node.key, node.entry.account, hop.rows * len(hop.span))
        self._auditor.stepped(hop)
