"""Hidden rows after one of the model's layers: a session on the first part of a route, run through once."""

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
"""Routes that may be lost."""


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Of a model with so many layers. most_rows: positions that a step may carry."""

    sessions: SessionManager
    layers: int
    most_rows: int

    async def rows(self, tokens: Ids, layer: int, claim: Claim) -> npt.NDArray[np.float32]:
        """Rows `[n, d]`, one a token, as that layer gives them; it is not the model's last.

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
        raise Unavailable(f"The rows' route was lost {_TRIES} times.")

    async def _run(self, session: Session, tokens: Ids) -> npt.NDArray[np.float32]:
        """Several steps are under way at once, so that all stages work."""
        limit = self.most_rows
        parts = [(start, tokens[start : start + limit]) for start in range(0, len(tokens), limit)]
        steps = (session.hidden(start, part) for start, part in parts)
        async with aclosing(in_order(steps, ahead=len(session.route) + 1)) as done:
            return np.concatenate([rows async for rows in done])
