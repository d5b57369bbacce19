"""Pages of other sites: preflights without a key, and what else they may ask."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kit.processes import complaint
from kit.runner import run
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.auth import Auth, KeyPolicy, LocalPolicy, Policy
from potluck.coordinator.http.cors import Cors, checked_origin
from potluck.coordinator.http.routes import access_of
from potluck.coordinator.members.keys import Keys
from potluck.coordinator.members.store import Store
from potluck.errors import PotluckError

PAGE = "https://chat.example.org"
ASKS = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-stainless-os"}


async def ok(_: Request) -> Response:
    return Response()


def ask(policy: Policy, origins: tuple[str, ...], method: str, origin: str, **headers: str) -> httpx.Response:
    middleware = [
        Middleware(Cors, origins=origins),
        Middleware(Auth, policy=policy, tickets=Tickets(), access_of=access_of),
    ]
    app = Starlette(routes=[Route("/v1/models", ok)], middleware=middleware)

    async def one() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8470") as client:
            return await client.request(method, "/v1/models", headers={"Origin": origin, **headers})

    return run(one())


@pytest.fixture
def private(store: Store) -> KeyPolicy:
    return KeyPolicy(Keys(store), open=False)


@pytest.mark.parametrize("origins", [(PAGE,), ("*",), ("http://localhost:3000", PAGE)])
def test_a_preflight_needs_no_key_and_the_request_does(private: KeyPolicy, origins: tuple[str, ...]) -> None:
    told = ask(private, origins, "OPTIONS", PAGE, **ASKS)
    assert told.status_code == 200
    assert told.headers["access-control-allow-origin"] in (PAGE, "*")
    assert told.headers["access-control-allow-headers"] == ASKS["Access-Control-Request-Headers"]
    asked = ask(private, origins, "GET", PAGE)
    assert asked.status_code == 401
    assert asked.headers["access-control-allow-origin"] in (PAGE, "*")  # the page may read why


@pytest.mark.parametrize("origin", [f"{PAGE}.evil.example", "http://chat.example.org", f"{PAGE}:8443", "null"])
@pytest.mark.parametrize("origins", [(), (PAGE,)])
def test_other_pages_are_refused_in_openais_words(private: KeyPolicy, origins: tuple[str, ...], origin: str) -> None:
    told = ask(private, origins, "OPTIONS", origin, **ASKS)
    assert (told.status_code, told.json()["error"]["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in told.headers
    assert "access-control-allow-origin" not in ask(private, origins, "GET", origin).headers


def test_a_local_swarm_answers_the_pages_that_its_owner_names_by_its_own_name() -> None:
    policy = LocalPolicy((PAGE,))
    assert ask(policy, (PAGE,), "GET", PAGE).status_code == 200
    assert ask(policy, (PAGE,), "GET", "https://evil.example").status_code == 403
    assert ask(policy, (PAGE,), "GET", PAGE, Host="evil.example").status_code == 403


@pytest.mark.parametrize("text", ["chat.example.org", "https://", f"{PAGE}/path", "null", "", "https://*.example.org"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(PotluckError, match="--cors takes origins"):
        checked_origin(text)


def test_an_origin_is_read_as_browsers_write_it() -> None:
    assert checked_origin(" HTTPS://Chat.Example.org/ ") == PAGE


@pytest.mark.parametrize("audience", [[], ["--local"]])
def test_every_page_may_ask_an_open_swarm_only(audience: list[str]) -> None:
    told = complaint("serve", "model", "--cors", "*", *audience)
    assert told == "--cors '*' lets every web page ask, which only --open may: name the pages' origins."
