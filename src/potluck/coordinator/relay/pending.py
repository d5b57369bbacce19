"""Keeps the steps that are under way, and who awaits the end of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from potluck.coordinator.relay.forward import Forward
from potluck.coordinator.relay.relay import Outgoing, Relay, Result
from potluck.errors import PotluckError, RouteLost, Unavailable
from potluck.wire.rows import Rows


def stopped() -> Unavailable:
    return Unavailable("The coordinator is stopping.")


class PendingSteps:
    """The steps under way. send: puts a frame into a node's outbox."""

    def __init__(self, relay: Relay, send: Callable[[Outgoing], None]) -> None:
        self._relay = relay
        self._send = send
        self._futures: dict[tuple[int, int], asyncio.Future[Any]] = {}
        self._stopping = False

    async def run(self, step: Forward, payload: bytes, part: tuple[int, int] | None = None) -> list[Any]:
        """Run a step, and return its `Result`. payload: tokens, or an audit's input.

        part: the first and the last of the stages that are to run it, for a step with `keep`; None means the whole
        route.
        Raises RouteLost when a stage is lost or cannot run it, RebuildFailed when a part cannot.
        """
        key = (step.session, step.step)
        if self._stopping:
            raise stopped()
        if not self._relay.is_open(step.session):
            raise RouteLost("A node of the session's route has left.")
        future = self._futures[key] = asyncio.get_running_loop().create_future()
        try:
            start = self._relay.start(step, payload) if part is None else self._relay.rebuild(step, payload, *part)
            self._send(start)
            result: list[Any] = await future
            return result
        finally:
            self._futures.pop(key, None)

    async def hidden(self, step: Forward, tokens: bytes) -> Rows:
        """The hidden rows at the end of a route that ends within the model. Raises RouteLost when a stage is lost."""
        return self._relay.unpack(await self.run(step, tokens))

    def finish(self, session: int, step: int, result: Result) -> None:
        """End a step with this result."""
        future = self._futures.pop((session, step), None)
        if future is not None and not future.done():
            future.set_result(result)

    def void(self, session: int, position: int) -> None:
        """Await no more the steps that begin at this position of the session or after it."""
        self._relay.void(session, position)

    def compute_s(self, session: int) -> float:
        """The seconds that the session's slowest stage computes for one row; 0 before the first."""
        return self._relay.compute_s(session)

    def lose(self, session: int, reason: str, node: str | None = None) -> None:
        """End the session's steps that are under way with RouteLost. It cannot continue before it is mended."""
        self._relay.lose(session)
        self.end(session, RouteLost(reason, node))

    def end(self, session: int, error: PotluckError) -> None:
        """End the session's steps that are under way with this error."""
        for key in self._steps_of(session):
            future = self._futures.pop(key)
            if not future.done():
                future.set_exception(error)

    def _steps_of(self, session: int) -> Iterable[tuple[int, int]]:
        return [key for key in self._futures if key[0] == session]

    def stop(self) -> None:
        """End all steps that are under way with an error, and begin none."""
        self._stopping = True
        for future in self._futures.values():
            if not future.done():
                future.set_exception(stopped())
