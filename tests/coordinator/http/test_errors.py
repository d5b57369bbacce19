"""Errors that no endpoint raised on purpose."""

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kit.runner import run
from potluck.coordinator.http.errors import error_response, fault
from potluck.errors import PotluckError, StoreError


async def fail(_: Request) -> Response:
    raise ZeroDivisionError("The secret is 42.")


async def miss(_: Request) -> Response:
    raise StoreError("The database failed: no connection to db.example, port 5432.", is_away=True)


async def fill(_: Request) -> Response:
    raise StoreError("The database failed: the disk is full.")


def ask(*routes: Route) -> httpx.Response:
    """The answer to a request for `/`."""
    app = Starlette(routes=routes, exception_handlers={Exception: fault, PotluckError: error_response})

    async def one() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/")

    return run(one())


def test_a_fault_of_ours_is_in_openais_words_and_tells_nothing_of_itself() -> None:
    told = ask(Route("/", fail))
    assert told.status_code == 500
    assert told.headers["content-type"] == "application/json"
    assert told.json()["error"]["type"] == "server_error"
    assert "42" not in told.text


def test_a_database_that_is_away_is_a_reason_to_try_again_later_and_stays_unnamed() -> None:
    told = ask(Route("/", miss))
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    assert told.json()["error"]["message"] == (
        "The coordinator's database cannot be reached: try again in a few seconds."
    )
    assert told.json()["error"]["code"] == "unavailable"
    told = ask(Route("/", fill))
    assert told.status_code == 500
    assert told.json()["error"]["message"] == "The database failed: the disk is full."
