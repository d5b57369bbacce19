"""What a node does without its coordinator, and what its owner is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.runner import run_leaping
from potluck.errors import IdentityError, LinkClosed, NoCoordinator, PotluckError, Refused, TicketExpired, WireError
from potluck.node import redialling as module
from potluck.node.kept_fleet import fleet_path, keep_fleet, kept_fleet
from potluck.node.redialling import Redialling
from potluck.types import Coordinator
from potluck.wire.fleet import Redirect

HOME = "http://10.0.0.1:8470"
B = Coordinator("http://10.0.0.2:8470", bytes(32))
GONE = LinkClosed("it is gone")


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(module, "way_to", lambda url: url)
    monkeypatch.setattr(module.random, "uniform", lambda low, _: low)


def made(*told: Coordinator) -> tuple[Redialling, list[str]]:
    """As it is after a start, with what is said."""
    said: list[str] = []
    keep_fleet(HOME, told)
    return Redialling(HOME, said.append), said


def serves(redialling: Redialling) -> None:
    redialling.admitted()
    redialling.settle()


def test_pauses_grow_once_everybody_has_failed() -> None:
    async def test() -> None:
        redialling, said = made(B)
        serves(redialling)
        await redialling.lost(TicketExpired("it is gone"))
        for _ in range(4):
            await redialling.lost(GONE)
        assert said == [
            f"There is no connection to {HOME} (it is gone); trying again in 0.2 s.",
            f"There is no connection to {HOME} (it is gone); trying {B.url}.",
            f"There is no connection to {B.url} (it is gone); trying {HOME} in 0.5 s.",
            f"There is no connection to {HOME} (it is gone); trying {B.url}.",
            f"There is no connection to {B.url} (it is gone); trying {HOME} in 1.0 s.",
        ]

    run_leaping(test())


def test_a_node_that_starts_while_its_coordinator_is_down_dials_another() -> None:
    async def test() -> None:
        redialling, _ = made(B)
        for error in (NoCoordinator("a web page answers there"), GONE):
            await redialling.lost(error)
        assert (redialling.url, redialling.other) == (B.url, B)

    run_leaping(test())


def test_who_was_never_admitted_and_knows_no_other_ends() -> None:
    async def test() -> None:
        redialling, _ = made()
        with pytest.raises(NoCoordinator, match=f"^There is no coordinator at {HOME}: a web page answers there.$"):
            await redialling.lost(NoCoordinator("a web page answers there"))
        await redialling.lost(GONE)

    run_leaping(test())


@pytest.mark.parametrize("error", [Refused("It is in quarantine."), WireError("It talks nonsense.")])
def test_a_word_of_its_own_coordinator_is_for_good(error: PotluckError) -> None:
    async def test() -> None:
        redialling, said = made(B)
        with pytest.raises(type(error)):
            await redialling.lost(error)
        for _ in range(2):
            await redialling.lost(GONE)
        serves(redialling)
        with pytest.raises(type(error)):
            await redialling.lost(error)
        assert len(said) == 2

    run_leaping(test())


def test_a_word_of_another_is_told_and_passed_over() -> None:
    async def test() -> None:
        redialling, said = made(B)
        serves(redialling)
        for _ in range(2):
            await redialling.lost(GONE)
        await redialling.lost(Refused("It has no room."))
        assert said[-1] == f"This node cannot be at {B.url} (It has no room); trying {HOME} in 0.5 s."

    run_leaping(test())


def test_an_impostor_is_passed_over_if_there_is_another() -> None:
    async def test() -> None:
        redialling, said = made(B)
        for _ in range(2):
            await redialling.lost(IdentityError("It has another key."))
        assert said[-1] == f"This node cannot be at {HOME} (It has another key); trying {B.url}."
        alone, _ = made()
        with pytest.raises(IdentityError):
            await alone.lost(IdentityError("It has another key."))

    run_leaping(test())


def test_what_it_learns_is_kept_until_it_changes() -> None:
    redialling, _ = made()
    redialling.learn([B])
    assert kept_fleet(HOME) == (B,)
    fleet_path(HOME).unlink()
    redialling.learn([B])
    assert not fleet_path(HOME).exists()
    redialling.learn([])
    assert kept_fleet(HOME) == ()


def test_what_cannot_be_kept_is_told_and_known_all_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    redialling = Redialling(HOME, said.append)
    (tmp_path / "data").write_text("a file where the folder should be")
    redialling.learn([B])
    assert said[0].startswith("The other coordinators cannot be kept in ")
    redialling.send(Redirect(B.url, bytes([1]) * 32))
    assert redialling.other == B


def test_a_redirect_is_told_and_comes_to_an_end() -> None:
    async def test() -> None:
        redialling, said = made()
        serves(redialling)
        redialling.send(Redirect(B.url, B.key))
        assert (redialling.url, redialling.is_elsewhere) == (B.url, True)
        await redialling.lost(Refused("It has no room."))
        assert redialling.url == HOME
        assert said == [
            f"{HOME} sends this node to {B.url}, which lacks layers.",
            f"This node cannot be at {B.url} (It has no room); trying {HOME} in 0.2 s.",
        ]
        with pytest.raises(LinkClosed, match=r"sends this node to http://127\.0\.0\.1:1, where its owner's choice"):
            redialling.send(Redirect("http://127.0.0.1:1", B.key))
        with pytest.raises(WireError):
            redialling.send(Redirect("b", B.key))

    run_leaping(test())
