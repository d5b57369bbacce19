"""Who sees the names of the accounts that wait, and what is told of guesses, through the real middleware."""

from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from kit.runner import run
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.auth import Auth, KeyPolicy, LocalPolicy, Policy
from potluck.coordinator.http.monitoring import Monitoring
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.routes import access_of, routes_of
from potluck.coordinator.members.keys import Keys
from potluck.coordinator.members.store import Store
from potluck.coordinator.relay.trace import Hop, Trace
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.fair_queue import FairQueue
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.status import swarm_status
from potluck.planning.cost import Footprint
from potluck.types import Span


def tell(may_see: Callable[[str], bool] = lambda _: False) -> bytes:
    queue = FairQueue()
    queue.join(Claim("owner"), 1, 0, urgent=True)  # the others have somebody before them
    for claim in (Claim("anna", weight=2.5), Claim("ben"), Claim(rank=Rank.ANONYMOUS)):
        queue.join(claim, 10, 0)
    standings = queue.standings(1, 9)[1:]
    swarm = Swarm("d", Footprint((1,) * 4, 0, 0))
    return msgspec.json.encode(swarm_status(swarm, "toy", "d", 64, no_audits(), 3, standings, may_see))


def ask(app: ASGIApp, path: str, key: str = "") -> Any:
    """What the coordinator answers, as JSON."""

    async def one() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get(path, headers={"Authorization": f"Bearer {key}"} if key else {})

    return run(one()).raise_for_status().json()


@pytest.fixture
def seen() -> Callable[..., Any]:
    """The queue as `/status` shows it to whoever has this key."""
    app = Starlette(routes=routes_of(Monitoring(tell, None, None, None, None)))  # type: ignore[arg-type]

    def queue(policy: Policy, key: str = "") -> Any:
        told = ask(Auth(app, policy, Tickets(), access_of), "/status", key)
        return [(waiting["account"], waiting["reason"]) for waiting in told["queue"]]

    return queue


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


def hop(session: int, step: int, *, guessed: bool, void: bool = False) -> Hop:
    """A hop of a tenth of a second on the only stage."""
    return Hop(session, step, 0, 1, "n1", Span(0, 3), 1, step, step, step + 0.1, 0.0, 0.05, guessed, void)


def test_the_trace_tells_what_became_of_the_guesses_that_were_asked_about() -> None:
    trace = Trace()
    for one in (hop(1, 0, guessed=False), hop(1, 1, guessed=True), hop(1, 2, guessed=True, void=True)):
        trace.add(one)
    trace.add(hop(2, 3, guessed=False))
    swarm = Swarm("d", Footprint((1,) * 4, 0, 0))
    watching = Monitoring(tell, None, trace, swarm, Pool())  # type: ignore[arg-type]
    app = Auth(Starlette(routes=routes_of(watching)), LocalPolicy(), Tickets(), access_of)
    both, own, later, other = (ask(app, f"/trace{which}") for which in ("", "?session=1", "?after=1", "?session=2"))
    assert both["guesses"] == own["guesses"] == {"fed": 2, "right": 1, "tokens": 2.0, "pass_s": 0.1, "rows": 1.0}
    assert both["summary"].endswith("50 % of 2 guesses were right: 2.0 tokens a pass of 100 ms, 1.0 rows a token.")
    assert later["guesses"] == {"fed": 2, "right": 1, "tokens": None, "pass_s": None, "rows": None}
    assert later["summary"].endswith(" 50 % of 2 guesses were right.")
    assert (other["guesses"], other["count"]) == (None, 4)
    assert "guess" not in other["summary"]
