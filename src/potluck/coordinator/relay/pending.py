"""Steps under way, and who awaits the end of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.relay.relay import Outgoing, Relay
from potluck.errors import PotluckError, RouteLost, Unavailable
from potluck.wire.messages import Step
from potluck.wire.rows import Ids, Rows, pack_ids


def stopped() -> Unavailable:
    return Unavailable("The coordinator is stopping.")


class PendingSteps:
    """send: puts a frame into a node's outbox."""

    def __init__(self, relay: Relay, send: Callable[[Outgoing], None]) -> None:
        self._relay = relay
        self._send = send
        self._futures: dict[tuple[int, int], asyncio.Future[Any]] = {}
        self._stopping = False

    @property
    def row_bytes(self) -> int:
        """Of one hidden row on the wire."""
        return self._relay.row_bytes

    async def run(self, step: Step, tokens: Ids) -> list[Candidates]:
        """Through the whole route. Raises RouteLost when a stage is lost."""
        candidates: list[Candidates] = await self._await(step, lambda: self._relay.start(step, pack_ids(tokens)))
        return candidates

    async def rebuild(self, step: Step, tokens: Ids, first: int, goal: int) -> None:
        """A step with `keep` through the stages `first` … `goal`. Raises RouteLost or RebuildFailed."""
        await self._await(step, lambda: self._relay.rebuild(step, pack_ids(tokens), first, goal))

    async def hidden(self, step: Step, tokens: Ids) -> Rows:
        """The rows with which a route ends that ends within the model. Raises RouteLost when a stage is lost."""
        return self._relay.unpack(await self.raw(step, pack_ids(tokens)))

    async def raw(self, step: Step, payload: bytes) -> list[bytes]:
        """What the session's route makes of this input, row by row: hidden rows, or an audit's candidates.

        Raises RouteLost when a stage is lost, or cannot.
        """
        rows: list[bytes] = await self._await(step, lambda: self._relay.start(step, payload))
        return rows

    async def _await(self, step: Step, start: Callable[[], Outgoing]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        key = (step.session, step.step)
        if self._stopping:
            raise stopped()
        if not self._relay.is_open(step.session):
            raise RouteLost("A node of the session's route has left.")
        self._futures[key] = future
        try:
            self._send(start())
            return await future
        finally:
            self._futures.pop(key, None)

    def finish(self, session: int, step: int, result: list[Candidates] | list[bytes]) -> None:
        future = self._futures.pop((session, step), None)
        if future is not None and not future.done():
            future.set_result(result)

    def lose(self, session: int, reason: str, node: str | None = None) -> None:
        """The session cannot go on before it is mended; its steps that are under way end with RouteLost."""
        self._relay.lose(session)
        self.end(session, RouteLost(reason, node))

    def end(self, session: int, error: PotluckError) -> None:
        for key in self._steps_of(session):
            future = self._futures.pop(key)
            if not future.done():
                future.set_exception(error)

    def _steps_of(self, session: int) -> Iterable[tuple[int, int]]:
        return [key for key in self._futures if key[0] == session]

    def stop(self) -> None:
        """Those that are under way end with an error now, and none begins."""
        self._stopping = True
        for future in self._futures.values():
            if not future.done():
                future.set_exception(stopped())
