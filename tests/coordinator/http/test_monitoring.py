"""What is told of one model and of several, and who sees the names of the accounts that wait, through the real
middleware.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp

from kit.runner import run
from kit.watched import watched
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.http.auth import Auth, KeyPolicy, LocalPolicy, Policy
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.monitoring import Monitoring
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.routes import access_of, routes_of
from potluck.coordinator.members.keys import Keys
from potluck.coordinator.members.store import Store
from potluck.coordinator.relay.trace import Hop, Trace
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.fair_queue import FairQueue
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.watching.metrics import Metrics
from potluck.coordinator.watching.status import swarm_status
from potluck.coordinator.watching.watched import Watched
from potluck.errors import PotluckError
from potluck.planning.cost import Footprint
from potluck.types import Span


def toy() -> Swarm:
    return Swarm("d", Footprint((1,) * 4, 0, 0))


def monitoring(*models: Watched) -> Monitoring:
    return Monitoring(models, Metrics(models, Counter()), Pool())


def tell(may_see: Callable[[str], bool] = lambda _: False) -> bytes:
    queue = FairQueue()
    queue.join(Claim("owner"), 1, 0, urgent=True)  # the others have somebody before them
    for claim in (Claim("anna", weight=2.5), Claim("ben"), Claim(rank=Rank.ANONYMOUS)):
        queue.join(claim, 10, 0)
    standings = queue.standings(1, 9)[1:]
    return msgspec.json.encode(swarm_status(toy(), "toy", "d", 64, no_audits(), 3, standings, may_see))


def reply_to(app: ASGIApp, path: str, key: str = "") -> httpx.Response:
    async def one() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get(path, headers={"Authorization": f"Bearer {key}"} if key else {})

    return run(one())


def ask(app: ASGIApp, path: str, key: str = "") -> Any:
    """What the coordinator answers, as JSON."""
    return reply_to(app, path, key).raise_for_status().json()


def local(*models: Watched) -> ASGIApp:
    """The endpoints of the owner's own machine."""
    handlers = {PotluckError: error_response}
    app = Starlette(routes=routes_of(monitoring(*models)), exception_handlers=handlers)
    return Auth(app, LocalPolicy(), Tickets(), access_of)


@pytest.fixture
def seen() -> Callable[..., Any]:
    """The queue as `/status` shows it to whoever has this key."""
    app = Starlette(routes=routes_of(monitoring(watched(toy(), status=tell))))

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
    app = local(watched(toy(), hops=trace))
    both, own, later, other = (ask(app, f"/trace{which}") for which in ("", "?session=1", "?after=1", "?session=2"))
    assert both["guesses"] == own["guesses"] == {"fed": 2, "right": 1, "tokens": 2.0, "pass_s": 0.1, "rows": 1.0}
    assert both["summary"].endswith("50 % of 2 guesses were right: 2.0 tokens a pass of 100 ms, 1.0 rows a token.")
    assert later["guesses"] == {"fed": 2, "right": 1, "tokens": None, "pass_s": None, "rows": None}
    assert later["summary"].endswith(" 50 % of 2 guesses were right.")
    assert (other["guesses"], other["count"]) == (None, 4)
    assert "guess" not in other["summary"]


def refusal(app: ASGIApp, path: str) -> tuple[int, str, str]:
    """The status, the code and the sentence of an error."""
    reply = reply_to(app, path)
    error = reply.json()["error"]
    assert error["param"] == "model"
    return reply.status_code, error["code"], error["message"]


NOT_ONE = "The model 'c' is not served here; 'a' is."
NOT_ONE_OF_TWO = "The model 'c' is not served here; 'a', 'b' are."


def test_the_status_of_one_model_is_told_alone_whether_or_not_it_is_named() -> None:
    app = local(watched(toy(), "a"))
    alone = reply_to(app, "/status")
    assert alone.json()["model"] == "a"
    assert alone.content == reply_to(app, "/status?model=a").content == reply_to(app, "/status?model=").content
    assert ask(app, "/trace") == ask(app, "/trace?model=a")
    for path in ("/status?model=c", "/trace?model=c"):
        assert refusal(app, path) == (404, "model_not_found", NOT_ONE)


def test_the_status_of_several_models_is_a_list_in_their_order_and_each_can_be_had_alone() -> None:
    app = local(watched(toy(), "a"), watched(toy(), "b"))
    told = ask(app, "/status")
    assert list(told) == ["models"]
    assert [status["model"] for status in told["models"]] == ["a", "b"]
    assert [ask(app, f"/status?model={name}") for name in "ab"] == told["models"]
    assert refusal(app, "/status?model=c") == (404, "model_not_found", NOT_ONE_OF_TWO)


def test_names_of_waiting_accounts_are_hidden_for_each_of_several_models(store: Store) -> None:
    keys = Keys(store)
    app = Starlette(routes=routes_of(monitoring(watched(toy(), status=tell), watched(toy(), "b", status=tell))))
    told = ask(Auth(app, KeyPolicy(keys, open=False), Tickets(), access_of), "/status", keys.create("anna")[0])
    assert [[one["account"] for one in status["queue"]] for status in told["models"]] == [["anna", "", ""]] * 2


def test_the_trace_is_that_of_the_model_that_is_named() -> None:
    traces = Trace(), Trace()
    for one in (hop(1, 0, guessed=False), hop(1, 1, guessed=False)):
        traces[1].add(one)
    app = local(watched(toy(), "a", hops=traces[0]), watched(toy(), "b", hops=traces[1]))
    assert [ask(app, f"/trace?model={name}")["count"] for name in "ab"] == [0, 2]
    assert ask(app, "/trace?model=b&after=1")["traceEvents"]
    message = "Several models are served here, so name one: 'a', 'b'."
    assert refusal(app, "/trace") == refusal(app, "/trace?session=1") == (400, "model_not_found", message)
    assert refusal(app, "/trace?model=c") == (404, "model_not_found", NOT_ONE_OF_TWO)
