"""Passes, with which coordinators hand requests to each other."""

import base64
from typing import Any

import pytest

from potluck.coordinator.fleet.passes import Passes
from potluck.errors import RequestError
from potluck.wire.identity import Identity

FLEET = Identity.fresh()
A, B = b"a" * 32, b"b" * 32
CALLER: dict[str, Any] = {
    "account": "anna",
    "admin": False,
    "anonymous": False,
    "models": ("llama",),
    "address": "10.0.0.9",
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def both(clock: Clock, key: Identity = FLEET) -> tuple[Passes, Passes]:
    return Passes(key, A, clock), Passes(FLEET, B, clock)


def refusal(passes: Passes, text: str, method: str = "POST", path: str = "/v1/x?y=1") -> str:
    with pytest.raises(RequestError) as caught:
        passes.check(text, method, path)
    assert caught.value.status == 401
    return str(caught.value)


def test_pass_says_who_asks() -> None:
    issuer, checker = both(Clock())
    found = checker.check(issuer.issue(B, "POST", "/v1/x?y=1", b"{}", **CALLER), "POST", "/v1/x?y=1")
    assert {name: getattr(found, name) for name in CALLER} == CALLER


def test_pass_is_for_one_request() -> None:
    issuer, checker = both(Clock())
    text = issuer.issue(B, "POST", "/v1/x?y=1", b"{}", **CALLER)
    assert "another request" in refusal(checker, text, method="DELETE")
    assert "another request" in refusal(checker, text, path="/v1/x")
    assert "another request" in refusal(checker, issuer.issue(A, "POST", "/v1/x?y=1", b"{}", **CALLER))
    checker.check(text, "POST", "/v1/x?y=1")
    assert "used before" in refusal(checker, text)


def test_pass_of_another_fleet_is_refused() -> None:
    issuer, checker = both(Clock(), Identity.fresh())
    assert "fleet's key" in refusal(checker, issuer.issue(B, "POST", "/v1/x?y=1", b"{}", **CALLER))


@pytest.mark.parametrize("text", ["", "x", "%%%", base64.b64encode(b"\x92\xc4\x00\xc4\x00").decode()])
def test_garbage_is_refused(text: str) -> None:
    assert "fleet's key" in refusal(both(Clock())[1], text)


def test_old_pass_is_refused_and_forgotten() -> None:
    clock = Clock()
    issuer, checker = both(clock)
    text = issuer.issue(B, "POST", "/v1/x?y=1", b"{}", **CALLER)
    checker.check(issuer.issue(B, "POST", "/v1/x?y=1", b"{}", **CALLER), "POST", "/v1/x?y=1")
    clock.now += 121
    assert "clocks" in refusal(checker, text)
    clock.now += 241
    checker.check(issuer.issue(B, "POST", "/v1/x?y=1", b"{}", **CALLER), "POST", "/v1/x?y=1")
    assert len(checker._used) == 1
