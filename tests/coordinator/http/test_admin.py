"""The owner's API over HTTP, on SQLite and PostgreSQL."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from kit.newcomer import COORDINATOR, NODE
from kit.runner import run
from potluck.coordinator.http.admin import Admin
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.office import Office, keep_admin_key, keep_invite, open_office
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.members.store import Store
from potluck.errors import PotluckError, StoreError
from potluck.types import Audience
from potluck.wire.identity import fingerprint

URL = "https://swarm.example"


class Cutter:
    """Stands for the gateway, and notes whom it was told to cut."""

    def __init__(self) -> None:
        self.cuts: list[bytes] = []
        self.pardoned: list[bytes] = []
        self.trusted: dict[bytes, bool] = {}

    def cut(self, key: bytes, reason: str) -> None:
        assert "revoked" in reason
        self.cuts.append(key)

    def pardon(self, key: bytes) -> None:
        self.pardoned.append(key)

    def trust(self, key: bytes, *, trusted: bool) -> None:
        self.trusted[key] = trusted


@pytest.fixture
def office(store: Store) -> Office:
    return open_office(store, Audience.PRIVATE, COORDINATOR, URL)


@pytest.fixture
def gateway() -> Cutter:
    return Cutter()


@pytest.fixture
def ask(office: Office, gateway: Cutter) -> Callable[..., Any]:
    """Sends one request, and returns the JSON of the answer, or its status and message."""
    routes = routes_of(Admin(office, gateway))  # type: ignore[arg-type]
    app = Starlette(routes=routes, exception_handlers={PotluckError: error_response})

    async def send(method: str, path: str, **request: Any) -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://potluck") as client:
            reply = await client.request(method, f"/v1/admin/{path}", **request)
        return reply.json() if reply.is_success else (reply.status_code, reply.json()["error"]["message"])

    return lambda *arguments, **request: run(send(*arguments, **request))


def test_an_invite_from_its_making_to_its_end(ask, office: Office, gateway: Cutter) -> None:
    made = ask("POST", "invites", json={"uses": 2, "account": "anna"})
    assert made["url"] == URL
    assert made["text"].endswith(f".{fingerprint(COORDINATOR.public)}")
    door = office.reception._door
    assert door.admit(NODE.public, "node", made["text"]).account == "anna"
    [listed] = ask("GET", "invites")["invites"]
    assert listed == {**made["invite"], "uses_left": 1}
    told = ask("DELETE", f"invites/{listed['id']}")
    assert (told["invite"]["revoked"], told["cut"], gateway.cuts) == (True, False, [])
    assert [node["key"] for node in told["nodes"]] == [NODE.public.hex()]
    told = ask("DELETE", f"invites/{listed['id']}", params={"nodes": "true"})
    assert [node["revoked"] for node in told["nodes"]] == [True]
    assert gateway.cuts == [NODE.public]
    assert ask("DELETE", "invites/none") == (404, "There is no invite 'none'.")


def test_a_key_from_its_making_to_its_end(ask, office: Office) -> None:
    made = ask("POST", "keys", json={"account": "anna", "per_minute": 0})
    assert made["key"]["per_minute"] is None
    assert office.keys.find(made["secret"]) is not None
    assert ask("GET", "keys") == {"keys": [made["key"]]}
    assert ask("DELETE", f"keys/{made['key']['id']}")["revoked"] is True
    assert office.keys.find(made["secret"]) is None
    limited = ask("POST", "keys", json={"account": "anna", "models": ["large"]})
    found = office.keys.find(limited["secret"])
    assert found is not None
    assert found.models == limited["key"]["models"] == ["large"]
    assert ask("DELETE", "keys/none") == (404, "There is no API key 'none'.")


def test_a_node_is_trusted_revoked_and_restored(ask, office: Office, gateway: Cutter) -> None:
    office.reception._door.admit(NODE.public, "node", office.invites.create()[0])
    [known] = ask("GET", "nodes")["nodes"]
    assert (known["name"], known["trusted"], known["revoked"]) == ("node", False, False)
    path = f"nodes/{known['key']}"
    assert ask("POST", path, json={"trusted": True}) == {**known, "trusted": True}
    assert (gateway.cuts, gateway.trusted) == ([], {NODE.public: True})
    assert ask("POST", path, json={"revoked": True}) == {**known, "trusted": True, "revoked": True}
    assert gateway.cuts == [NODE.public]
    assert ask("POST", path, json={"revoked": False})["revoked"] is False
    for unknown in ("ab" * 32, "no-hex"):
        assert ask("POST", f"nodes/{unknown}", json={"revoked": True})[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("invites", {"uses": 0}, "1 to 1000000000 uses"),
        ("invites", {"lifetime_s": 0}, "lifetime must be positive"),
        ("invites", {"lifetime": 60}, "unknown field"),
        ("invites", {"account": ""}, "An account's name is"),
        ("keys", {}, "account"),
        ("keys", {"account": "a\nb"}, "An account's name is"),
        ("keys", {"account": "x" * 65}, "An account's name is"),
        ("keys", {"account": "anna", "per_minute": -1}, "between 0 and"),
        ("keys", {"account": "anna", "models": ["a\nb"]}, "models takes up to 64 names"),
        ("keys", {"account": "anna", "models": [""]}, "models takes up to 64 names"),
        ("keys", {"account": "anna", "models": ["a"], "admin": True}, "cannot be limited to models"),
        ("keys", {"account": "anna", "models": ["a"] * 65}, "models takes up to 64 names"),
        ("keys", [], "must be a JSON object"),
    ],
)
def test_what_makes_no_sense_is_refused(ask, path: str, body: Any, told: str) -> None:
    status, message = ask("POST", path, json=body)
    assert status == 400
    assert told in message
    assert ask("GET", path) == {path: []}


def test_a_request_too_long_is_not_read_to_its_end(ask) -> None:
    assert ask("POST", "keys", content=b" " * (1 << 17))[0] == 413


def test_the_admin_key_is_made_once_and_again_when_it_is_lost(office: Office, tmp_path) -> None:
    file = tmp_path / "folder" / "admin.key"
    keep_admin_key(office.keys, file)
    first = file.read_text()
    keep_admin_key(office.keys, file)
    assert file.read_text() == first
    key = office.keys.find(first.strip())
    assert key is not None
    assert (key.admin, key.per_minute, file.stat().st_mode & 0o777) == (True, None, 0o600)
    for lost in (file.unlink, lambda: file.write_text("pk-wrong"), lambda: office.keys.revoke(key.id)):
        lost()
        keep_admin_key(office.keys, file)
        found = office.keys.find(file.read_text().strip())
        assert found is not None
        assert found.admin
    with pytest.raises(StoreError, match="The admin key cannot be kept in"):
        keep_admin_key(office.keys, file / "admin.key")


def test_the_invite_of_the_start_stays_the_same_while_nodes_can_join_with_it(office: Office, tmp_path) -> None:
    file = tmp_path / "folder" / "first.invite"
    text, invite = keep_invite(office.invites, file, 60.0)
    assert (file.read_text().strip(), file.stat().st_mode & 0o777) == (text, 0o600)
    assert keep_invite(office.invites, file, 60.0) == (text, invite)
    assert office.reception._door.admit(NODE.public, "node", text)
    for lost in (
        file.unlink,
        lambda: file.write_text("guessed." + fingerprint(COORDINATOR.public)),
        lambda: file.write_text(file.read_text().partition(".")[0] + ".0123456789abcdef"),  # the key is another one
        lambda: office.invites.revoke(keep_invite(office.invites, file, 60.0)[1].id),
    ):
        lost()
        other, _ = keep_invite(office.invites, file, 60.0)
        assert other != text
        assert file.read_text().strip() == other
        text = other
    with pytest.raises(StoreError, match="The invite cannot be kept in"):
        keep_invite(office.invites, file / "first.invite", 60.0)


@pytest.mark.parametrize(
    ("path", "asked", "message"),
    [
        ("invites", {"uses": 2**63}, "An invite is for 1 to 1000000000 uses."),
        ("invites", {"uses": 0}, "An invite is for 1 to 1000000000 uses."),
        ("keys", {"account": "anna", "per_minute": 2**63}, "per_minute must lie between 0 and 1000000000."),
        ("keys", {"account": "anna", "per_minute": -1}, "per_minute must lie between 0 and 1000000000."),
        ("invites", {"whatever": None}, "Object contains unknown field `whatever`."),
    ],
)
def test_what_a_database_cannot_hold_is_refused_before(ask, path: str, asked: dict[str, Any], message: str) -> None:
    assert ask("POST", path, json=asked) == (400, message)


@pytest.mark.parametrize(("method", "path"), [("DELETE", "invites"), ("DELETE", "keys"), ("POST", "nodes")])
def test_a_name_with_a_nul_which_postgresql_cannot_read_is_not_found(ask, method: str, path: str) -> None:
    status, message = ask(method, f"{path}/a%00b", json={})
    assert (status, message) == (404, "There is nothing named 'a\\x00b'.")


def test_a_method_that_a_path_has_not_is_told_those_that_it_has(office: Office) -> None:
    app = Starlette(routes=routes_of(Admin(office, Cutter())))  # type: ignore[arg-type]

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://potluck") as client:
            return await client.put("/v1/admin/keys")

    reply = run(ask())
    assert reply.status_code == 405
    assert {"GET", "POST"} <= set(reply.headers["Allow"].split(", "))
