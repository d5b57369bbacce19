"""The pool of threads for the work that clients ask for: tokenizing, grammars, long answers as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import HTTPConnection, Request

from potluck.coordinator.http.auth import address_of
from potluck.coordinator.http.inbound import CLIENT_GONE, ClientGone, while_connected
from potluck.coordinator.http.rota import Asker, Rota
from potluck.errors import RequestError

T = TypeVar("T")

WORKERS = 2
_MOST_WAITING = 256
"""The jobs of one account that wait: as many as a benchmark with hundreds of streams begins at once."""
_RETRY_S = 1.0


@dataclass(frozen=True, eq=False)
class _Work:
    """A job, and the future of its result. The future is cancelled when nobody waits for it any more."""

    job: Callable[[], Any]
    result: asyncio.Future[Any]


class Pool:
    """Runs blocking jobs of clients on a few threads, in the turns of a rota.

    Nothing else runs on them, so that neither authentication nor the nodes wait for what clients ask for.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(WORKERS, "clients")
        self._rota = Rota[_Work](WORKERS, _MOST_WAITING)

    async def of(self, request: Request, job: Callable[[], T]) -> T:
        """The result of a job for this request. A client that hangs up gives up its turn.

        Raises RequestError then, or when too many jobs of the asker wait already.
        """
        try:
            return await while_connected(request, self.run(asker_of(request), job))
        except ClientGone as gone:
            raise RequestError("The client hung up before its answer began.", status=CLIENT_GONE) from gone

    async def run(self, asker: Asker, job: Callable[[], T]) -> T:
        """The result of a job. If this is cancelled before the job's turn, the job is dropped."""
        work = _Work(job, asyncio.get_running_loop().create_future())
        if not self._rota.add(asker, work):
            message = f"More than {_MOST_WAITING} requests of this account or address wait to be read."
            raise RequestError(message, status=429, code="rate_limit_exceeded", retry_s=_RETRY_S)
        self._begin()
        try:
            result: T = await work.result
            return result
        finally:
            self._rota.drop(asker, work)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while (begun := self._rota.begin()) is not None:
            asker, work = begun
            loop.run_in_executor(self._threads, work.job).add_done_callback(partial(self._end, asker, work.result))

    def _end(self, asker: Asker, result: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        self._rota.end(asker)
        error = done.exception()
        if result.cancelled():
            pass  # its client hung up meanwhile
        elif error is not None:
            result.set_exception(error)
        else:
            result.set_result(done.result())
        self._begin()


def asker_of(request: HTTPConnection) -> Asker:
    """The account behind a request or, of a caller who has none, the address. Without `Auth` all are one."""
    caller = getattr(request.state, "caller", None)
    if caller is None:
        return Asker()
    return Asker(f"address {address_of(request)}", stranger=True) if caller.anonymous else Asker(caller.account)
