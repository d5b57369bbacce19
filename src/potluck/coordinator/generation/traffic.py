"""What all answers together tell the guessing of each: how many there are, and whose guesses are usually right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from potluck.coordinator.swarm.tally import Source
from potluck.planning.guessing import Share, Trial

_EXPECTED = {Source.PREDICTION: 0.8, Source.GRAMMAR: 0.99, Source.REPEAT: 0.7, Source.MODEL: 0.7}
"""The share of right guesses of each source before the first one."""
_WEIGHT = 0.01


@dataclass(slots=True)
class Traffic:
    """The answers that are being generated now, and the shares of right guesses by their source.

    trial: of the small model. is_of_use: whether it could guess for the latest answer that it was asked about.
    """

    answers: int = 0
    shares: dict[Source, Share] = field(
        default_factory=lambda: {source: Share(share, _WEIGHT) for source, share in _EXPECTED.items()}
    )
    trial: Trial = field(default_factory=Trial)
    is_of_use: bool = False

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count one more answer in the block."""
        self.answers += 1
        try:
            yield
        finally:
            self.answers -= 1
