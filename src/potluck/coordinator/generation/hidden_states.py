"""Hidden rows after one of the model's layers, from a session on the first part of a route."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from potluck.coordinator.sessions.chunks import in_order
from potluck.coordinator.sessions.claim import Claim
from potluck.coordinator.sessions.manager import SessionManager
from potluck.coordinator.sessions.session import Session
from potluck.errors import RouteLost, Unavailable
from potluck.wire.rows import Ids, Rows

P = TypeVar("P")

_TRIES = 3
"""The routes that may be lost before the request fails."""


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """Makes the hidden rows of a model. layers: their number. width: the values of a row. most_rows: the positions that
    a step may carry.
    """

    sessions: SessionManager
    layers: int
    width: int
    most_rows: int

    async def rows(self, tokens: Ids, layer: int, claim: Claim) -> npt.NDArray[np.float32]:
        """The rows `[n, d]` after that layer, one for each token. It must not be the model's last layer.

        Raises Unavailable as `SessionManager.open` does, or when routes are lost again and again.
        """
        return np.concatenate(await self._parts(tokens, layer, claim, lambda rows: rows))

    async def sum(self, tokens: Ids, layer: int, claim: Claim) -> npt.NDArray[np.float64]:
        """The sum `[d]` of those rows, each divided by its root mean square: the first one would outweigh all others.

        Raises as `rows` does.
        """
        return _added(np.stack(await self._parts(tokens, layer, claim, _sum)))

    async def _parts(self, tokens: Ids, layer: int, claim: Claim, kept: Callable[[Rows], P]) -> list[P]:
        """What is kept of the rows of each step."""
        avoid: set[str] = set()
        for _ in range(_TRIES):
            session = await self.sessions.open(len(tokens), avoid=avoid, claim=claim, last=layer)
            computed = 0
            try:
                parts = await self._run(session, tokens, kept)
                computed = math.ceil(len(tokens) * (layer + 1) / self.layers)  # as if through all layers
            except RouteLost as error:
                avoid |= {error.node} if error.node is not None else set()
            else:
                return parts
            finally:
                session.close(computed)
        raise Unavailable(f"The request lost its route {_TRIES} times.")

    async def _run(self, session: Session, tokens: Ids, kept: Callable[[Rows], P]) -> list[P]:
        """Run several steps at once, so that all stages work."""
        limit = self.most_rows
        parts = [(start, tokens[start : start + limit]) for start in range(0, len(tokens), limit)]
        steps = (session.hidden(start, part) for start, part in parts)
        async with aclosing(in_order(steps, ahead=len(session.route) + 1)) as done:
            return [kept(rows) async for rows in done]


def _sum(rows: Rows) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    sizes = np.sqrt(np.mean(wide**2, axis=1, keepdims=True))
    return _added(np.divide(wide, sizes, out=np.zeros_like(wide), where=sizes > 0))


def _added(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total: npt.NDArray[np.float64] = rows.sum(axis=0)
    return total
