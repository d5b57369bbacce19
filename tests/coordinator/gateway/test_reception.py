import asyncio

import pytest
from msgspec import structs

from kit.newcomer import COORDINATOR, GREETING, NODE, answer
from kit.runner import run
from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.members.door import Entry, OpenDoor
from potluck.coordinator.members.ledger import Ledger
from potluck.errors import IdentityError, Refused, WireError
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.identity import Identity
from potluck.wire.link import MemoryLink
from potluck.wire.messages import Challenge, Hello

HELLO = Hello("anna", "0.1", "", None, 1 << 30, 4, url="https://anna.example/", invite="secret")


class GuardedDoor:
    """Admits who brings the invite, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, str, str]] = []

    def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
        self.asked.append((key, name, invite))
        if invite != "secret":
            raise Refused("You are not invited.")
        return Entry("anna", trusted=True)


async def challenged(reception: Reception) -> tuple[MemoryLink, bytes, asyncio.Task[tuple[Hello, Entry]]]:
    """Our end of a link, the coordinator's first frame, and what the meeting will come to."""
    ours, theirs = MemoryLink.pair()
    meeting = asyncio.create_task(reception.meet(theirs))
    await ours.send(GREETING)
    return ours, await ours.receive(), meeting


async def meet(reception: Reception, hello: Hello = HELLO) -> tuple[Hello, Entry]:
    link, challenge, meeting = await challenged(reception)
    await link.send(answer(challenge, hello))
    return await meeting


def test_the_door_learns_who_wants_in() -> None:
    async def test() -> None:
        door = GuardedDoor()
        hello, entry = await meet(Reception(COORDINATOR, door))
        assert (hello.name, hello.key) == ("anna", NODE.public)
        assert entry == Entry("anna", trusted=True)
        assert door.asked == [(NODE.public, "anna", "secret")]

    run(test())


@pytest.mark.parametrize(("joins", "pending"), [(True, 7), (False, 0)])
def test_the_ledger_learns_what_is_pending_for_a_node_that_joins(joins: bool, pending: int) -> None:
    class Door(OpenDoor):
        def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
            return Entry("anna", trusted=False, pending=7)

    async def test() -> None:
        ledger = Ledger()
        await meet(Reception(COORDINATOR, Door(), ledger=ledger), structs.replace(HELLO, joins=joins))
        assert ledger.pending("anna") == pending

    run(test())


@pytest.mark.parametrize("name", ["a\0b", "two\nlines", "x" * 65])
def test_a_name_that_nobody_could_show_does_not_come_to_the_door(name: str) -> None:
    async def test() -> None:
        door = GuardedDoor()
        hello = Hello(name, "0.1", "", None, 1 << 30, 4, invite="secret")
        with pytest.raises(Refused, match="up to 64 printable characters"):
            await meet(Reception(COORDINATOR, door), hello)
        assert door.asked == []

    run(test())


def test_the_door_may_refuse() -> None:
    async def test() -> None:
        hello = Hello("ben", "0.1", "", None, 1 << 30, 4, invite="guessed")
        with pytest.raises(Refused, match="not invited"):
            await meet(Reception(COORDINATOR, GuardedDoor()), hello)

    run(test())


def test_an_open_door_knows_nobody() -> None:
    async def test() -> None:
        _, entry = await meet(Reception(COORDINATOR, OpenDoor()))
        assert entry == Entry("", trusted=False)

    run(test())


def test_the_door_is_not_asked_about_a_node_without_proof() -> None:
    async def test() -> None:
        door = GuardedDoor()
        link, _, meeting = await challenged(Reception(COORDINATOR, door))
        await link.send(encode(HELLO))
        with pytest.raises(IdentityError, match="does not prove"):
            await meeting
        assert door.asked == []

    run(test())


def test_a_hello_that_was_overheard_admits_nobody() -> None:
    """The same coordinator, and a node that sends again what another said."""

    async def test() -> None:
        reception = Reception(COORDINATOR, OpenDoor())
        link, challenge, meeting = await challenged(reception)
        overheard = answer(challenge, HELLO)
        await link.send(overheard)
        await meeting
        link, _, meeting = await challenged(reception)
        await link.send(overheard)
        with pytest.raises(IdentityError, match="does not prove"):
            await meeting

    run(test())


def test_a_hello_for_another_coordinator_admits_nobody() -> None:
    """A coordinator that passes on what a node said to it, nonces and all."""

    async def test() -> None:
        link, challenge, meeting = await challenged(Reception(COORDINATOR, OpenDoor()))
        real, _ = decode_from_coordinator(challenge)
        assert isinstance(real, Challenge)
        theirs = encode(Challenge(real.nonce, Identity.fresh().public, real.proof))
        await link.send(answer(theirs, HELLO))
        with pytest.raises(IdentityError, match="does not prove"):
            await meeting

    run(test())


@pytest.mark.parametrize("url", ["https://anna.example", "https://ANNA.example:443/node"])
def test_nodes_that_dialled_its_own_url_are_welcome(url: str) -> None:
    run(meet(Reception(COORDINATOR, OpenDoor(), url)))


def test_a_node_that_dialled_another_url_is_refused() -> None:
    async def test() -> None:
        with pytest.raises(
            Refused, match=r"You dialled https://anna\.example:443, .* https://ben\.example: join with that URL"
        ):
            await meet(Reception(COORDINATOR, OpenDoor(), "https://ben.example"))
        with pytest.raises(WireError, match="is not the URL of a coordinator"):
            await meet(Reception(COORDINATOR, OpenDoor(), "https://ben.example"), Hello("x", "", "", None, 1, 1))

    run(test())
