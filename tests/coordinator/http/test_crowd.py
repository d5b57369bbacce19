"""One account's requests under way at once."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kit.runner import run
from potluck.coordinator.http import crowd as module
from potluck.coordinator.http.auth import OWNER, Caller
from potluck.coordinator.http.crowd import Crowd, UnderWay

CALLERS = {
    "ann": Caller("ann"),
    "ann's other key": Caller("ann"),
    "ben": Caller("ben"),
    "stranger": Caller("", anonymous=True),
    "other stranger": Caller("", anonymous=True),
    "owner": OWNER,
}


class Known:
    """Stands in for `Auth`: the header names the caller."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (name := HTTPConnection(scope).headers.get("x-caller")):
            scope.setdefault("state", {})["caller"] = CALLERS[name]
            scope["client"] = ("10.0.0.2" if name == "other stranger" else "10.0.0.1", 1)
        await self._app(scope, receive, send)


def test_it_counts_each_by_itself() -> None:
    under_way = UnderWay()
    assert [under_way.enter("ann", 2) for _ in range(3)] == [True, True, False]
    assert under_way.enter("ben", 2)
    under_way.leave("ann")
    assert [under_way.enter("ann", 2) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("one", "others", "free"),
    [
        ("ann", ["ann", "ann's other key"], ["ben", "stranger", "owner", None]),
        ("stranger", ["stranger"], ["other stranger", "ann", "owner", None]),
        ("owner", [], ["owner", "ann", "stranger"]),
        (None, [], [None, "ann"]),
    ],
)
def test_an_account_beside_too_many_of_its_own_is_turned_away(
    monkeypatch: pytest.MonkeyPatch, one: str | None, others: list[str], free: list[str | None]
) -> None:
    monkeypatch.setattr(module, "_OF_ACCOUNT", 3)
    monkeypatch.setattr(module, "_OF_STRANGER", 3)

    async def test() -> None:
        gate, inside = asyncio.Event(), asyncio.Semaphore(0)

        async def slow(_: Request) -> Response:
            inside.release()
            await gate.wait()
            return PlainTextResponse("")

        async def quick(_: Request) -> Response:
            return PlainTextResponse("")

        def caller(name: str | None) -> dict[str, str]:
            return {"x-caller": name} if name else {}

        app = Starlette(
            routes=[Route("/slow", slow), Route("/quick", quick)], middleware=[Middleware(Known), Middleware(Crowd)]
        )
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://potluck")
            )
            tasks = [asyncio.create_task(http.get("/slow", headers=caller(one))) for _ in range(3)]
            for _ in tasks:
                await inside.acquire()
            for other in others:
                reply = await http.get("/quick", headers=caller(other))
                assert (reply.status_code, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
                assert reply.headers["retry-after"] == "1"
            for name in free:
                assert (await http.get("/quick", headers=caller(name))).status_code == 200
            gate.set()
            assert [reply.status_code for reply in await asyncio.gather(*tasks)] == [200] * 3
            assert (await http.get("/quick", headers=caller(one))).status_code == 200

    run(test())
