import asyncio
from pathlib import Path
from typing import Any

import pytest

from kit.newcomer import COORDINATOR, NODE, reception
from kit.runner import run
from potluck.errors import IdentityError, LinkClosed, Refused, WireError
from potluck.node.introduction import Introduction, expect
from potluck.node.pins import Pins
from potluck.types import Coordinator
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.handshake import NONCE_BYTES, challenge
from potluck.wire.identity import Identity, fingerprint
from potluck.wire.link import MemoryLink
from potluck.wire.messages import Challenge, Greeting, Hello, Refusal, Released, Welcome
from potluck.wire.origin import origin

URL = "http://192.168.1.5:8470"
HELLO = Hello("anna", "0.1", "", None, 1 << 30, 4)
OURS, OTHERS = fingerprint(COORDINATOR.public), "0" * 16


class Owner:
    """Of a node: introduces it, and keeps what it is told."""

    def __init__(self, folder: Path) -> None:
        self.pins = Pins(folder / "known.json")
        self.told: list[str] = []

    def introduction(self, url: str = URL, invite: str = "") -> Introduction:
        return Introduction(NODE, url, invite, self.pins, self.told.append)

    async def meet(self, url: str = URL, invite: str = "", other: Coordinator | None = None) -> Hello:
        """What the real coordinator learns."""
        ours, theirs = MemoryLink.pair()
        meeting = asyncio.create_task(reception().meet(theirs))
        try:
            await self.introduction(url, invite).make(ours, HELLO, other)
            hello, _ = await meeting
        finally:
            meeting.cancel()
        return hello


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path)


def test_a_new_coordinator_is_told_and_known_from_then_on(owner: Owner) -> None:
    async def test() -> None:
        hello = await owner.meet()
        assert (hello.name, hello.key, hello.url, hello.invite) == ("anna", NODE.public, URL, "")
        told = f"{URL} has the key {OURS}. This machine will recognise it by that key from now on."
        assert owner.told == [told]
        await owner.meet()
        assert len(owner.told) == 1
        assert owner.pins.recognise(origin(URL), COORDINATOR.public)

    run(test())


def test_a_coordinator_with_another_key_than_before_is_left(owner: Owner) -> None:
    async def test() -> None:
        owner.pins.recognise(origin(URL), Identity.fresh().public)
        with pytest.raises(IdentityError, match=rf"now shows {OURS}.*potluck forget"):
            await owner.meet(invite=f"secret.{OURS}")

    run(test())


def test_coordinators_on_this_machine_may_change_their_key(owner: Owner) -> None:
    async def test() -> None:
        owner.pins.recognise("http://127.0.0.1:8470", Identity.fresh().public)
        await owner.meet("http://127.0.0.1:8470")
        assert owner.told == []

    run(test())


@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:8470"])
def test_an_invite_that_names_another_key_is_not_shown(owner: Owner, url: str) -> None:
    async def test() -> None:
        with pytest.raises(IdentityError, match=rf"with the key {OTHERS}, but {url} has {OURS}"):
            await owner.meet(url, f"secret.{OTHERS}")
        assert not owner.pins.recognise(origin(url), COORDINATOR.public)

    run(test())


@pytest.mark.parametrize("invite", ["secret", f"secret.{OURS}"], ids=["without a key", "with the key"])
def test_an_invite_arrives(owner: Owner, invite: str) -> None:
    async def test() -> None:
        assert (await owner.meet(invite=invite)).invite == invite

    run(test())


B = Coordinator("http://192.168.1.6:8470", COORDINATOR.public)


def test_another_coordinator_of_the_fleet_has_the_key_that_was_told_and_sees_no_invite(owner: Owner) -> None:
    async def test() -> None:
        hello = await owner.meet(invite=f"secret.{OTHERS}", other=B)
        assert (hello.url, hello.invite, hello.key) == (B.url, "", NODE.public)
        assert owner.told == [f"{B.url} has the key {OURS}. This machine will recognise it by that key from now on."]
        assert not owner.pins.recognise(origin(URL), COORDINATOR.public)

    run(test())


@pytest.mark.parametrize("url", [B.url, "http://127.0.0.1:8470"])
def test_another_coordinator_with_another_key_than_was_told_is_left(owner: Owner, url: str) -> None:
    async def test() -> None:
        told = Identity.fresh().public
        with pytest.raises(IdentityError, match=f"{url} has the key {OURS}, .* named {fingerprint(told)}: another"):
            await owner.meet(other=Coordinator(url, told))
        assert not owner.pins.recognise(origin(url), told)

    run(test())


def test_what_is_told_replaces_no_key_of_an_earlier_visit(owner: Owner) -> None:
    async def test() -> None:
        owner.pins.recognise(origin(B.url), Identity.fresh().public)
        with pytest.raises(IdentityError, match=rf"now shows {OURS}.*potluck forget"):
            await owner.meet(other=B)

    run(test())


IMPOSTOR = Identity.fresh()


def stolen(greeting: Greeting) -> Challenge:
    """The known key, and the proof of another."""
    mine = challenge(IMPOSTOR, greeting, bytes(NONCE_BYTES))
    return Challenge(mine.nonce, COORDINATOR.public, mine.proof)


def recorded(_: Greeting) -> Challenge:
    """What the real coordinator once said to another greeting."""
    return challenge(COORDINATOR, Greeting(3, bytes(NONCE_BYTES)), bytes(NONCE_BYTES))


@pytest.mark.parametrize("forge", [stolen, recorded])
@pytest.mark.parametrize("url", [URL, "http://127.0.0.1:8470"])
def test_an_impostor_with_the_known_key_learns_nothing(owner: Owner, forge: Any, url: str) -> None:
    async def test() -> None:
        owner.pins.recognise(origin(URL), COORDINATOR.public)
        ours, theirs = MemoryLink.pair()
        meeting = asyncio.create_task(owner.introduction(url, f"secret.{OURS}").make(ours, HELLO))
        greeting, _ = decode_from_node(await theirs.receive())
        assert isinstance(greeting, Greeting)
        await theirs.send(encode(forge(greeting)))
        with pytest.raises(IdentityError, match="does not prove the key that it shows"):
            await meeting
        await ours.close()
        with pytest.raises(LinkClosed):
            await theirs.receive()

    run(test())


def test_a_coordinator_that_refuses_or_talks_nonsense(owner: Owner) -> None:
    async def test() -> None:
        ours, theirs = MemoryLink.pair()
        await theirs.send(encode(Refusal("Install the same version.")))
        with pytest.raises(Refused, match="Install the same version"):
            await owner.introduction().make(ours, HELLO)
        await theirs.send(encode(Released()))
        with pytest.raises(WireError, match="sent Released instead of Welcome"):
            await expect(ours, Welcome)

    run(test())
