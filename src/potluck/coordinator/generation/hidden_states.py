"""Hidden rows after one of the model's layers, from a session on the first part of a route."""

from __future__ import annotations

import math
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from potluck.coordinator.sessions.chunks import in_order
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.sessions.manager import SessionManager
from potluck.coordinator.sessions.session import Session
from potluck.errors import RouteLost, Unavailable
from potluck.wire.rows import Ids

_TRIES = 3
"""The routes that may be lost before the request fails."""


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Makes the hidden rows of a model. layers: their number. most_rows: the positions that a step may carry."""

    sessions: SessionManager
    layers: int
    most_rows: int

    async def rows(self, tokens: Ids, layer: int, claim: Claim) -> npt.NDArray[np.float32]:
        """The rows `[n, d]` after that layer, one for each token. It must not be the model's last layer.

        Raises Unavailable as `SessionManager.open` does, or when routes are lost again and again.
        """
        avoid: set[str] = set()
        for _ in range(_TRIES):
            session = await self.sessions.open(len(tokens), avoid=avoid, claim=claim, last=layer)
            computed = 0
            try:
                rows = await self._run(session, tokens)
                computed = math.ceil(len(tokens) * (layer + 1) / self.layers)  # as if through all layers
            except RouteLost as error:
                avoid |= {error.node} if error.node is not None else set()
            else:
                return rows
            finally:
                session.close(computed)
        raise Unavailable(f"The request lost its route {_TRIES} times.")

    async def _run(self, session: Session, tokens: Ids) -> npt.NDArray[np.float32]:
        """Run several steps at once, so that all stages work."""
        limit = self.most_rows
        parts = [(start, tokens[start : start + limit]) for start in range(0, len(tokens), limit)]
        steps = (session.hidden(start, part) for start, part in parts)
        async with aclosing(in_order(steps, ahead=len(session.route) + 1)) as done:
            return np.concatenate([rows async for rows in done])
