"""Hands requests to other coordinators of the fleet over HTTP, streamed, and cancelled when the client hangs up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from potluck.coordinator.event_stream import EventStream
from potluck.coordinator.fleet.passes import HEADER, Passes
from potluck.coordinator.fleet.places import Places
from potluck.coordinator.fleet.records import Record
from potluck.coordinator.http.auth import address_of, caller_of, path_of
from potluck.coordinator.http.bodies import body_is_read
from potluck.coordinator.http.elsewhere import Elsewhere, stay_here
from potluck.coordinator.http.inbound import CLIENT_GONE, ClientGone, kept_body, while_connected
from potluck.errors import RequestError

log = logging.getLogger(__name__)

_TIMES = httpx.Timeout(10.0, connect=2.0, read=None, pool=None)
"""An answer may take any time. A coordinator that is there takes a connection at once."""
_SILENCE_S = 30.0
"""Seconds of silence after which a stream has broken off: coordinators say every few seconds that they are there."""
_PASSED_BY = {401, 404, 429, 502, 503}
"""The statuses of coordinators that cannot answer what can be answered here, too. 401: they do not take the pass."""
_LOOK_S = 1.0
"""Seconds after which it is looked again whether a coordinator that is asked is still there."""
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=64)
_PASSED = ("accept", "authorization", "content-type", "last-event-id", "user-agent", "x-api-key")
"""The headers of requests that are passed on. The caller's key opens answers that are kept."""
_RETURNED = ("cache-control", "content-length", "content-type", "potluck-fleet", "retry-after", "x-accel-buffering")

Handler = Callable[[Request], Awaitable[Response]]


class Forwarding:
    """Hands requests over. A request is handed over once at most: whoever gets it answers it."""

    def __init__(self, places: Places, passes: Passes) -> None:
        self.places = places
        self.passes = passes
        # A whole client would add time to every request for what is not needed here, such as cookies and redirects.
        self._http = httpx.AsyncHTTPTransport(limits=_LIMITS, trust_env=False)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Close the connections at the end of the block."""
        async with self._http:
            yield

    async def handle(self, handler: Handler, request: Request) -> Response:
        """What the handler answers, here or at another coordinator. If no other one answers, it is asked to stay."""
        try:
            return await handler(request)
        except Elsewhere as elsewhere:
            response = await self._answer_of(request, elsewhere)
        if response is not None:
            body_is_read(request)
            return response
        stay_here(request)
        return await handler(request)

    async def _answer_of(self, request: Request, elsewhere: Elsewhere) -> Response | None:
        """The answer of the first coordinator that has one; None if the request is to be answered here after all."""
        passed_by = _PASSED_BY if elsewhere.here else {401, 503}
        refused: Passed | None = None
        for target in elsewhere.targets:
            self.places.sent(target, elsewhere.name)
            response = await self._ask(request, target)
            if response is None:
                self.places.shun(target)
                continue
            if response.status_code not in passed_by:
                return response
            if refused is not None:
                await refused.aclose()
            refused = response
        if refused is not None and (elsewhere.here or refused.status_code == 401):
            await refused.aclose()
            return None
        return refused

    async def _ask(self, request: Request, target: Record) -> Passed | None:
        """The answer of another coordinator; None if it does not answer. Raises RequestError if the client hangs up."""
        try:
            asked = httpx.Request(
                request.method,
                httpx.URL(target.url).copy_with(raw_path=path_of(request).encode("latin-1")),
                content=kept_body(request),
                headers=[*_headers(request), (HEADER.encode(), self._pass(request, target).encode())],
                extensions={"timeout": _TIMES.as_dict()},
            )
            reply = await while_connected(request, self._head(asked, target))
        except ClientGone as gone:
            raise RequestError("The client hung up before its answer began.", status=CLIENT_GONE) from gone
        except httpx.InvalidURL as error:
            raise RequestError("This path cannot be handed to another coordinator.") from error
        except httpx.HTTPError as error:
            log.warning("The coordinator at %s does not answer: %s", target.url, str(error) or type(error).__name__)
            return None
        headers = {name: value for name in _RETURNED if (value := reply.headers.get(name)) is not None}
        return Passed(_parts(reply), headers, reply.status_code)

    async def _head(self, asked: httpx.Request, target: Record) -> httpx.Response:
        """The beginning of the answer, which may take any time. Raises httpx.HTTPError, also when the coordinator is
        gone from the fleet meanwhile, as one that hangs is.
        """
        asking = asyncio.ensure_future(self._http.handle_async_request(asked))
        try:
            while not (await asyncio.wait((asking,), timeout=_LOOK_S))[0]:
                if self.places.is_gone(target):
                    raise httpx.ReadTimeout("It renews its record no more.")
            return asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    def _pass(self, request: Request, target: Record) -> str:
        caller = caller_of(request)
        return self.passes.issue(
            target.key,
            request.method,
            path_of(request),
            kept_body(request),
            account=caller.account,
            admin=caller.admin,
            anonymous=caller.anonymous,
            models=caller.models,
            address=address_of(request),
        )


class Passed(EventStream):
    """Another coordinator's answer, whose parts are passed on as they come. If that one is lost, the connection to the
    client is cut, so that it knows that this is not the end.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None], headers: dict[str, str], status: int) -> None:
        super().__init__(parts)
        self.status_code = status
        self.init_headers(headers)

    async def aclose(self) -> None:
        """Pass nothing on."""
        async for _ in self.body_iterator:  # it is an error's, and so it is short
            pass

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except httpx.HTTPError as error:  # the server cuts what is returned from before it is complete
            log.warning("An answer of another coordinator broke off: %s", str(error) or type(error).__name__)


async def _parts(reply: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The parts of the answer. When this is closed, so is the connection, and the other coordinator stops."""
    is_stream = reply.headers.get("content-type", "").startswith(EventStream.media_type)
    async with aclosing(reply):
        parts = reply.aiter_raw()
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S if is_stream else None):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise httpx.ReadTimeout("It says nothing more.") from error
            yield part


def _headers(request: Request) -> list[tuple[bytes, bytes]]:
    """The headers that are passed on, as they came."""
    return [(name, value) for name, value in request.headers.raw if name.decode("latin-1").lower() in _PASSED]
