"""Errors that no endpoint raised on purpose."""

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kit.runner import run
from potluck.coordinator.http.errors import fault


async def fail(_: Request) -> Response:
    raise ZeroDivisionError("The secret is 42.")


def test_a_fault_of_ours_is_in_openais_words_and_tells_nothing_of_itself() -> None:
    app = Starlette(routes=[Route("/", fail)], exception_handlers={Exception: fault})

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/")

    told = run(ask())
    assert told.status_code == 500
    assert told.headers["content-type"] == "application/json"
    assert told.json()["error"]["type"] == "server_error"
    assert "42" not in told.text
