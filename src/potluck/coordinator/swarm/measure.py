"""Averages the times of a node's real steps, so that no node's own word counts forever. Without a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potluck.coordinator.relay.trace import Hop
from potluck.planning.cost import EVEN, HOP_S
from potluck.types import SMALL_ROWS, Span, Speed

_WEIGHT = 0.1
"""The weight of the latest step."""

_DECAY = 0.9


@dataclass(slots=True)
class Measure:
    """The times of a node's steps, all in seconds.

    token_s: one token through the whole span, for each session that runs there.
    row_s: one row of a prompt. hop_s: the part of a step outside queue and computation.
    forward_s: the longest recent computation during which the node could not answer.
    sums: those of the model's footprint. A token takes a part of the span as long as its work is; a prompt's row as
    long as its layers are many, because it does not pass through the head.
    """

    token_s: float
    row_s: float
    forward_s: float
    hop_s: float = HOP_S
    sums: Sequence[int] = EVEN

    @classmethod
    def of(cls, speed: Speed, hop_s: float = HOP_S, sums: Sequence[int] = EVEN) -> Measure:
        """The measure before the first step: what the node measured when it loaded, and an estimate for its link.

        Beside other programs a row of a prompt may seem to take longer than a token. It never does.
        """
        row_s = min(speed.prefill_s, speed.decode_s)
        return cls(speed.decode_s, row_s, max(speed.decode_s, SMALL_ROWS * row_s), hop_s, sums)

    def note(self, hop: Hop, span: Span, sessions: int) -> None:
        """Note one step on a node that serves `span` and has this many sessions."""
        # What the node says of itself cannot be more than what it took.
        there_s = max(0.0, hop.received - hop.sent)
        compute_s = min(hop.compute_s, there_s)
        queue_s = min(hop.queue_s, there_s - compute_s)
        if not hop.guessed:  # those wait for one another: in the queue, and before the node can take them from the wire
            self._average(hop, span, sessions, compute_s, queue_s)
            self.hop_s += _WEIGHT * (there_s - queue_s - compute_s - self.hop_s)
        # Longer batches run beside the node's event loop: it answers pings meanwhile.
        blocked_s = compute_s * min(1.0, SMALL_ROWS / hop.rows)
        self.forward_s = max(blocked_s, _DECAY * self.forward_s)

    def _average(self, hop: Hop, span: Span, sessions: int, compute_s: float, queue_s: float) -> None:
        """Let the step's time count for a token, or for a row of a prompt."""
        whole = 1.0 if hop.span is span or hop.span == span else self._whole(hop, span)
        if hop.rows == 1:
            self.token_s += _WEIGHT * ((queue_s + compute_s) * whole / max(1, sessions) - self.token_s)
        else:
            self.row_s += _WEIGHT * (compute_s * whole / hop.rows - self.row_s)

    def _whole(self, hop: Hop, span: Span) -> float:
        """How many times as long as the hop's part the whole span takes."""
        sums: Sequence[int] = self.sums if hop.rows == 1 else EVEN
        return (sums[span.last + 1] - sums[span.first]) / (sums[hop.span.last + 1] - sums[hop.span.first])
