"""Replies of server-sent events, whose source is closed as soon as the reply ends or the client hangs up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class EventStream(StreamingResponse):
    """A reply with these events, which proxies pass on one by one. on_end: called when it has ended, even if it never
    began. headers: further ones.

    Starlette only drops the generator of a client that hung up. The garbage collector would close it, and at the same
    time the generators that it reads from, some of which are running then.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        on_end: Callable[[], None] = lambda: None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)
        finally:
            self._on_end()
