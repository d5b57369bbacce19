"""An engine of a whole toy model, in which every token of a text counts for the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from potluck.engine.base import Output, Segment
from potluck.errors import CapacityError, EngineError
from potluck.types import Capacity, Span

IDS = 50
PADDED = 64


def next_token(tokens: Sequence[int]) -> int:
    """What the toy model says after these tokens, all of which count."""
    return sum((place + 3) * token for place, token in enumerate(tokens)) % IDS


class TextEngine:
    """Remembers the tokens of its sessions; its logits are highest for padding, and then for `next_token`."""

    span, layers, vocabulary = Span(0, 0), 1, PADDED

    def __init__(self, sessions: int = 4, positions: int = 1000, *, forgets: bool = True) -> None:
        self.capacity = Capacity(sessions, positions, 64)
        self.held: dict[int, list[int]] = {}
        self.batches: list[dict[int, int]] = []
        self.forgets = forgets
        self.after: Callable[[], object] = lambda: None

    def length(self, session: int) -> int:
        return len(self.held.get(session, ()))

    def forward(self, batch: Sequence[Segment]) -> list[Output]:
        assert 1 <= sum(segment.rows for segment in batch) <= self.capacity.rows
        lengths = {one: len(tokens) for one, tokens in self.held.items()}
        lengths |= {segment.session: segment.position + segment.rows for segment in batch}
        if len(lengths) > self.capacity.sessions or sum(lengths.values()) > self.capacity.positions:
            raise CapacityError("There is no room.")
        self.batches.append({segment.session: segment.rows for segment in batch})
        self.after()
        return [self._run(segment) for segment in batch]

    def _run(self, segment: Segment) -> Output:
        held = self.held.setdefault(segment.session, [])
        assert segment.position == len(held)
        held += segment.data.tolist()
        logits = np.zeros((segment.wanted, PADDED), np.float32)
        logits[:, IDS:] = 2
        logits[:, next_token(held)] = 1
        return logits

    def truncate(self, session: int, length: int) -> None:
        if not self.forgets:
            raise EngineError("This model's memory cannot forget a part of a session.")
        del self.held[session][length:]
        if not length:
            self.close(session)

    def close(self, session: int) -> None:
        self.held.pop(session, None)


def continued(tokens: list[int], count: int) -> list[int]:
    """The tokens that the toy model has behind these."""
    text = list(tokens)
    for _ in range(count):
        text.append(next_token(text))
    return text[len(tokens) :]
