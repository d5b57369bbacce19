"""Books every hop: how fast its node is, that it lives, what its owner earns, and when it is audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    def note(self, name: str, hops: Sequence[Hop]) -> None:
        """Note that a node has answered these steps together."""
        node = self._nodes.get(name)
        self._heartbeat.ran(name, hops[-1].received, failed=False)
        if node is None:
            return
        rows = sum(hop.rows for hop in hops)
        self._tally.rows += rows
        node.rows += rows
        sessions = node.open_sessions
        for hop in hops:
            node.measure.note(hop, node.span, sessions)
        self._earn(node, hops)
        self._auditor.stepped(node.key, hops)

    def _earn(self, node: Node, hops: Sequence[Hop]) -> None:
        """Book the node's work. Whoever works for themselves earns nothing."""
        account, payer = node.entry.account, self._payers.account_of
        earned = sum(hop.rows * len(hop.span) for hop in hops if payer(hop.session) != account)
        if earned:
            self._ledger.earn(node.key, account, earned)
