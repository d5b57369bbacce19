"""Who sees the names of the accounts that wait, through the real middleware."""

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette

from kit.runner import run
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.auth import Auth, KeyPolicy, LocalPolicy, Policy
from potluck.coordinator.http.monitoring import Monitoring
from potluck.coordinator.http.routes import access_of, routes_of
from potluck.coordinator.members.keys import Keys
from potluck.coordinator.members.store import Store
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.fair_queue import FairQueue
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.status import swarm_status
from potluck.planning.cost import Footprint


def tell(may_see: Callable[[str], bool] = lambda _: False) -> bytes:
    queue = FairQueue()
    queue.join(Claim("owner"), 1, 0, urgent=True)  # the others have somebody before them
    for claim in (Claim("anna", weight=2.5), Claim("ben"), Claim(rank=Rank.ANONYMOUS)):
        queue.join(claim, 10, 0)
    standings = queue.standings(1, 9)[1:]
    swarm = Swarm("d", Footprint((1,) * 4, 0, 0))
    return msgspec.json.encode(swarm_status(swarm, "toy", "d", 64, no_audits(), 3, standings, may_see))


@pytest.fixture
def seen() -> Callable[..., Any]:
    """The queue as `/status` shows it to whoever has this key."""
    app = Starlette(routes=routes_of(Monitoring(tell, None, None, None, None)))  # type: ignore[arg-type]

    def ask(policy: Policy, key: str = "") -> Any:
        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(Auth(app, policy, Tickets(), access_of))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.get("/status", headers={"Authorization": f"Bearer {key}"} if key else {})

        return [(waiting["account"], waiting["reason"]) for waiting in run(one()).json()["queue"]]

    return ask


@pytest.mark.parametrize("open_to_all", [False, True])
def test_names_of_waiting_accounts_are_for_their_owners_and_admins(seen, store: Store, open_to_all: bool) -> None:
    keys = Keys(store)
    policy = KeyPolicy(keys, open=open_to_all)
    admin, anna, cleo = (keys.create(name, admin=name == "admin")[0] for name in ("admin", "anna", "cleo"))
    told = {name: seen(policy, secret) for name, secret in {"admin": admin, "anna": anna, "cleo": cleo}.items()}
    assert [account for account, _ in told["admin"]] == ["anna", "ben", ""]
    assert [account for account, _ in told["anna"]] == ["anna", "", ""]
    assert [account for account, _ in told["cleo"]] == ["", "", ""]
    assert "account anna, weight 2.5: " in told["admin"][0][1]
    assert told["anna"] == [told["admin"][0], *told["cleo"][1:]]
    for _, reason in told["cleo"]:
        assert not any(word in reason for word in ("anna", "ben", "account", "weight"))
        assert "are before it." in reason
    if open_to_all:
        assert seen(policy) == told["cleo"]


def test_the_owner_of_a_local_swarm_sees_all(seen) -> None:
    assert [account for account, _ in seen(LocalPolicy())] == ["anna", "ben", ""]


def test_events_are_the_same_for_all_and_name_nobody() -> None:
    assert b"anna" not in tell()
