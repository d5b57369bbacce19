"""The state of one open session: its route, its room, and what its nodes hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.swarm.tally import Remedy
from potluck.types import Stage


@dataclass(slots=True, kw_only=True, eq=False)
class SessionState:
    """The state of a session; docs/internals/states.md draws its whole life.

    held: how many tokens of its request the nodes already held when it opened, so that they need not be fed.
    fed: the most positions that a node may have held then.
    positions: the room that it has on every stage. claim: whose it is. steps: the number of its next step.
    uses: how many requests it has served.
    remedy: what its latest mending took.
    lacking: the nodes of its route that do not hold all of it yet, and how many positions each of them does.
    """

    number: int
    route: tuple[Stage, ...]
    held: int
    fed: int = 0
    positions: int
    claim: Claim
    steps: int
    uses: int = 1
    remedy: Remedy = Remedy.REPLAYED
    lacking: dict[str, int] = field(default_factory=dict)

    def forward(
        self,
        position: int,
        rows: int,
        top: int = 1,
        asks: tuple[tuple[int, ...], ...] = (),
        *,
        keep: bool = False,
        guessed: bool = False,
    ) -> Forward:
        """The session's next step."""
        number = self.steps
        self.steps += 1
        return Forward(
            session=self.number,
            step=number,
            position=position,
            rows=rows,
            top=top,
            asks=asks,
            keep=keep,
            guessed=guessed,
        )
