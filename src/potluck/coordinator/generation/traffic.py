"""What all answers together tell the guessing of each: how many there are, and whose guesses are usually right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from potluck.coordinator.recent import Recent
from potluck.coordinator.swarm.tally import Source
from potluck.planning.guessing import Share, Trial
from potluck.types import Stage

_EXPECTED = {Source.PREDICTION: 0.8, Source.GRAMMAR: 0.99, Source.REPEAT: 0.7, Source.MODEL: 0.7}
"""The share of right guesses of each source before the first one."""
_WEIGHT = 0.01
"""The weight of the latest guess in a share."""
_TIME_WEIGHT = 0.2
"""The weight of the latest time in a mean."""
_MOST_ROUTES = 256


@dataclass(slots=True)
class Times:
    """What was last known of a route, in seconds; 0 before that.

    pass_s: the mean time of a token's pass. plain_s: that without guesses. row_s: what the slowest part of the route
    takes for a row. trial: that of guesses on this route.
    """

    pass_s: float = 0.0
    plain_s: float = 0.0
    row_s: float = 0.0
    trial: Trial = field(default_factory=Trial)

    def note(self, seconds: float, *, plain: bool) -> None:
        """Note how long a token's pass took."""
        self.pass_s = _mean(self.pass_s, seconds)
        if plain:
            self.plain_s = _mean(self.plain_s, seconds)


def _mean(mean: float, latest: float) -> float:
    """The mean in which later times count more. It begins with the first."""
    return mean + _TIME_WEIGHT * (latest - mean) if mean else latest


@dataclass(slots=True)
class Traffic:
    """The answers that are being generated now, the times of their routes, and the shares of right guesses by their
    source.

    is_of_use: whether a small model could have guessed for the latest token.
    """

    answers: int = 0
    shares: dict[Source, Share] = field(
        default_factory=lambda: {source: Share(share, _WEIGHT) for source, share in _EXPECTED.items()}
    )
    times: Recent[tuple[Stage, ...], Times] = field(default_factory=lambda: Recent(Times, _MOST_ROUTES))
    is_of_use: bool = False

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count one more answer in the block."""
        self.answers += 1
        try:
            yield
        finally:
            self.answers -= 1
