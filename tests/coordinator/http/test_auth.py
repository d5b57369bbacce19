"""Requests through the real middleware: who gets in, and with which answer the others are sent away."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Send

from kit.runner import run
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.auth import Auth, KeyPolicy, LocalPolicy, Policy, caller_of
from potluck.coordinator.http.routes import access_of
from potluck.coordinator.members.keys import Keys
from potluck.coordinator.members.store import Store

LOCAL = "http://127.0.0.1:8470"


async def tell_caller(request: Request) -> Response:
    caller = caller_of(request)
    return JSONResponse({"account": caller.account, "admin": caller.admin, "anonymous": caller.anonymous})


async def ok(_: Request) -> Response:
    return Response()


@pytest.fixture
def tickets() -> Tickets:
    return Tickets()


@pytest.fixture
def ask(tickets: Tickets) -> Callable[..., httpx.Response]:
    """Sends one request to a swarm with this policy."""
    apps: dict[int, Auth] = {}

    def send(policy: Policy, path: str, key: str = "", base: str = LOCAL, **headers: str) -> httpx.Response:
        if key:
            headers["Authorization"] = f"Bearer {key}"
        app = apps.setdefault(id(policy), Auth(make_app(), policy, tickets, access_of))

        async def one() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base) as client:
                return await client.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

        return run(one())

    return send


def make_app() -> Starlette:
    told = ("/status", "/metrics", "/v1/models", "/v1/account", "/v1/admin/keys")
    open_to_nodes = ("/health", "/", "/web/app.js", "/manifest", "/files/a.gguf")
    return Starlette(
        routes=[*(Route(path, tell_caller) for path in told), *(Route(path, ok) for path in open_to_nodes)]
    )


@pytest.fixture
def keys(store: Store, clock) -> Keys:
    return Keys(store, clock)


@pytest.fixture
def private(keys: Keys, clock) -> KeyPolicy:
    return KeyPolicy(keys, open=False, clock=clock)


@pytest.fixture
def public(keys: Keys, clock) -> KeyPolicy:
    return KeyPolicy(keys, open=True, clock=clock)


def refusal(reply: httpx.Response) -> tuple[int, str]:
    error = reply.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return reply.status_code, error["code"]


def test_a_private_swarm_tells_strangers_nothing_but_that_it_lives(ask, private: KeyPolicy) -> None:
    for path in ("/health", "/", "/web/app.js"):
        assert ask(private, path).status_code == 200
    named = ("/v1/account", "/v1/admin/keys", "/manifest", "/files/a.gguf")
    for path in ("/status", "/metrics", "/v1/models", *named, "/nowhere"):
        assert refusal(ask(private, path)) == (401, "invalid_api_key")


def test_a_key_tells_whose_request_it_is(ask, private: KeyPolicy, keys: Keys) -> None:
    secret, key = keys.create("anna")
    assert ask(private, "/status", secret).json() == {"account": "anna", "admin": False, "anonymous": False}
    keys.revoke(key.id)
    assert refusal(ask(private, "/status", secret)) == (401, "invalid_api_key")


@pytest.mark.parametrize("wrong", ["pk-", "pk-guessed", "none", "x" * 5000])
def test_a_wrong_key_is_refused(ask, private: KeyPolicy, keys: Keys, wrong: str) -> None:
    keys.create("anna")
    reply = ask(private, "/status", wrong)
    assert refusal(reply) == (401, "invalid_api_key")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert wrong not in reply.text or wrong == "pk-"


def test_a_key_is_not_taken_from_anywhere_else(ask, private: KeyPolicy, keys: Keys) -> None:
    secret, _ = keys.create("anna")
    assert ask(private, f"/status?key={secret}").status_code == 401
    assert ask(private, "/status", Authorization=f"Basic {secret}").status_code == 401
    assert ask(private, "/status", Authorization=f"bearer  {secret}").status_code == 200


def test_the_word_before_a_key_may_be_missing(ask, private: KeyPolicy, public: KeyPolicy, keys: Keys) -> None:
    secret, _ = keys.create("anna")
    for policy in (private, public):
        assert ask(policy, "/status", Authorization=f" {secret} ").json()["account"] == "anna"
        assert ask(policy, "/status", Authorization=secret, x_api_key="another").json()["account"] == "anna"
        for wrong in ("pk-guessed", f"{secret}, {secret}", f"{secret} x"):
            assert refusal(ask(policy, "/status", Authorization=wrong)) == (401, "invalid_api_key")
    for other in ("EMPTY", f"Basic {secret}", f"Token {secret}", f"Bearer{secret}"):
        assert refusal(ask(private, "/status", Authorization=other)) == (401, "invalid_api_key")
        assert ask(public, "/status", Authorization=other).json()["anonymous"] is True


def test_a_key_may_come_as_anthropics_clients_send_it(ask, private: KeyPolicy, public: KeyPolicy, keys: Keys) -> None:
    secret, _ = keys.create("anna")
    for policy in (private, public):
        assert ask(policy, "/status", x_api_key=f" {secret}").json()["account"] == "anna"
        assert ask(policy, "/status", secret, x_api_key="another").json()["account"] == "anna"
    assert ask(private, "/status", x_api_key="pk-guessed").status_code == 401
    assert ask(public, "/status", x_api_key="sk-ant-of-somebody").json()["anonymous"] is True


def test_anthropics_clients_are_refused_in_their_own_words(ask, private: KeyPolicy) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        reply = ask(private, path, x_api_key="pk-guessed")
        assert (reply.status_code, reply.json()["type"]) == (401, "error")
        assert reply.json()["error"]["type"] == "authentication_error"


def test_only_an_admin_key_is_for_the_owner(ask, private: KeyPolicy, public: KeyPolicy, keys: Keys) -> None:
    plain, admin = keys.create("anna")[0], keys.create("owner", admin=True)[0]
    for policy in (private, public):
        assert refusal(ask(policy, "/v1/admin/keys", plain)) == (403, "forbidden")
        assert ask(policy, "/v1/admin/keys", admin).json()["admin"] is True
    assert refusal(ask(public, "/v1/admin/keys")) == (401, "invalid_api_key")


def test_a_public_swarm_lets_strangers_ask_and_no_more(ask, public: KeyPolicy, keys: Keys) -> None:
    for key in ("", "none", "EMPTY", "sk-no-key-required", "ollama", "PK-1", "pk", "x" * 5000):
        assert ask(public, "/status", key).json() == {"account": "", "admin": False, "anonymous": True}
        assert ask(public, "/v1/models", key).status_code == 200
        for path in ("/v1/account", "/manifest", "/files/a.gguf"):
            assert refusal(ask(public, path, key)) == (401, "invalid_api_key")
    assert ask(public, "/v1/account", keys.create("anna")[0]).json()["account"] == "anna"
    assert ask(public, "/status", "pk-guessed").status_code == 401


def test_what_is_no_key_counts_as_none_where_that_is_allowed(ask, public: KeyPolicy, private: KeyPolicy) -> None:
    codes = [ask(public, "/status", f"sk-{number}").status_code for number in range(61)]
    assert codes == [200] * 60 + [429]  # one address is one stranger, whatever it sends
    for key in ("EMPTY", "sk-no-key-required", "ollama"):
        assert refusal(ask(private, "/status", key)) == (401, "invalid_api_key")
        assert refusal(ask(public, "/v1/admin/keys", key)) == (429, "rate_limit_exceeded")
    assert refusal(ask(public, "/status", "pk-")) == (401, "invalid_api_key")


def test_a_node_fetches_weights_with_its_ticket_while_it_is_connected(ask, private: KeyPolicy, tickets) -> None:
    ticket = tickets.issue("n1", "d")
    assert ask(private, "/manifest", ticket).status_code == 200
    assert ask(private, "/files/a.gguf", ticket).status_code == 200
    assert ask(private, "/status", ticket).status_code == 401
    tickets.cancel("n1")
    assert refusal(ask(private, "/files/a.gguf", ticket)) == (401, "invalid_api_key")


def test_a_keys_requests_are_limited_and_it_is_told_when_to_come_again(ask, private: KeyPolicy, keys, clock) -> None:
    secret, _ = keys.create("anna", per_minute=2)
    other, _ = keys.create("anna", per_minute=2)
    assert [ask(private, "/status", secret).status_code for _ in range(3)] == [200, 200, 429]
    reply = ask(private, "/status", secret)
    assert refusal(reply) == (429, "rate_limit_exceeded")
    assert reply.json()["error"]["type"] == "rate_limit_error"
    assert ask(private, "/status", other).status_code == 200
    clock.now += int(reply.headers["retry-after"])
    assert ask(private, "/status", secret).status_code == 200


def test_strangers_are_limited_by_their_address(ask, public: KeyPolicy, keys: Keys) -> None:
    codes = [ask(public, "/status").status_code for _ in range(70)]
    assert codes.count(200) == 60
    assert codes[-1] == 429
    assert ask(public, "/status", keys.create("owner", admin=True, per_minute=None)[0]).status_code == 200


def test_guesses_are_limited_by_their_address_but_keys_that_were_good_before_are_not(
    ask, private: KeyPolicy, public: KeyPolicy, keys: Keys, clock
) -> None:
    secret, _ = keys.create("anna")
    for policy in (private, public):
        assert ask(policy, "/status", secret).status_code == 200
        codes = [ask(policy, "/status", f"pk-guess-{number}").status_code for number in range(40)]
        assert codes == [401] * 30 + [429] * 10
        reply = ask(policy, "/status", "pk-guess")
        assert refusal(reply) == (429, "rate_limit_exceeded")
        assert ask(policy, "/status", secret).status_code == 200
        assert refusal(ask(policy, "/status", Keys(keys._store).create("ben")[0])) == (429, "rate_limit_exceeded")
        assert ask(policy, "/status").status_code == (401 if policy is private else 200)  # no key is no guess
        clock.now += int(reply.headers["retry-after"])
        assert ask(policy, "/status", "pk-guess").status_code == 401


def test_a_key_is_looked_up_while_all_other_work_stands_still(private: KeyPolicy, keys: Keys) -> None:
    secret, _ = keys.create("anna")

    async def test() -> int:
        released, loop = threading.Event(), asyncio.get_running_loop()
        stuck = [loop.run_in_executor(None, released.wait) for _ in range(100)]
        transport = httpx.ASGITransport(Auth(make_app(), private, Tickets(), access_of))
        async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as client:
            reply = await client.get("/status", headers={"Authorization": f"Bearer {secret}"})
        assert not any(future.done() for future in stuck)
        released.set()
        await asyncio.gather(*stuck)
        return reply.status_code

    assert run(test()) == 200


@pytest.mark.parametrize("base", [LOCAL, "http://localhost", "http://[::1]:8470", "http://127.1.2.3"])
def test_on_ones_own_machine_no_key_is_needed(ask, base: str) -> None:
    policy = LocalPolicy()
    assert ask(policy, "/v1/admin/keys", base=base).json() == {"account": "owner", "admin": True, "anonymous": False}
    assert ask(policy, "/manifest", "any key", base=base).status_code == 200
    assert ask(policy, "/status", base=base, Origin="http://localhost:8470").status_code == 200
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ask(policy, "/", base=base, **link).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "192.168.1.5:8470"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "127.0.0.1@evil.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Forwarded": "for=203.0.113.7"},
        {"X_Forwarded_For": "203.0.113.7"},
        {"X_Real_Ip": "203.0.113.7"},
        {"Via": "1.1 proxy"},
    ],
    ids=str,
)
def test_a_proxy_or_a_web_page_is_not_taken_for_the_owner(ask, headers: dict[str, str]) -> None:
    for path in ("/status", "/health"):
        assert refusal(ask(LocalPolicy(), path, **headers)) == (403, "forbidden")


def socket_of(policy: Policy, headers: list[tuple[bytes, bytes]]) -> list[dict[str, Any]]:
    """What the server is told when a node's socket comes."""
    sent: list[dict[str, Any]] = []

    async def app(_scope: Any, _receive: Any, send: Send) -> None:
        await send({"type": "websocket.accept"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/node", "headers": headers, "query_string": b""}
    run(Auth(app, policy, Tickets(), access_of)(scope, receive, send))
    return sent


def test_sockets_pass_to_their_own_door_but_not_from_a_web_page(private: KeyPolicy) -> None:
    host = (b"host", b"127.0.0.1:8470")
    assert socket_of(private, [host]) == [{"type": "websocket.accept"}]
    assert socket_of(LocalPolicy(), [host]) == [{"type": "websocket.accept"}]
    page = (b"origin", b"https://evil.example")
    head, body = socket_of(LocalPolicy(), [host, page])
    assert (head["type"], head["status"]) == ("websocket.http.response.start", 403)
    assert b"pages of other sites may not ask it" in body["body"]


def test_coordinators_that_tell_each_other_count_together(ask, keys: Keys, clock) -> None:
    first, second = (KeyPolicy(keys, open=True, clock=clock) for _ in range(2))
    secret, key = keys.create("anna", per_minute=3)
    for _ in range(3):
        assert ask(first, "/status", secret).status_code == 200
    assert ask(first, "/status").status_code == 200
    assert ask(first, "/status", f"pk-{0:032}").status_code == 401
    taken = first.taken()
    assert sorted(name.split()[0] for name in taken) == ["guess", "key", "stranger"]
    assert taken[f"key {key.id}"] == 60.0
    assert first.taken() == {}
    assert ask(second, "/status", secret).status_code == 200
    second.taken_elsewhere(taken)
    assert refusal(ask(second, "/status", secret)) == (429, "rate_limit_exceeded")
    clock.now += 40.0
    assert ask(second, "/status", secret).status_code == 200


def test_in_a_swarm_for_this_machine_alone_nothing_is_counted() -> None:
    policy = LocalPolicy()
    policy.taken_elsewhere({"key 1": 60.0})
    assert policy.taken() == {}
