"""Nodes that guess, at the gateway: whom it lets guess, and what becomes of those that are of no use."""

from __future__ import annotations

import asyncio

import pytest

from kit.gateways import moderation_of
from kit.newcomer import COORDINATOR, NODE, introduce
from kit.played_node import Node, hello, make_service
from kit.runner import run
from kit.toy_swarm import END, TOKENIZER, VOCABULARY
from kit.waiting import until
from potluck.coordinator.gateway import gateway
from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.generation.guesser_pool import GuesserPool
from potluck.coordinator.generation.guesses import Guesser
from potluck.coordinator.members.door import Entry
from potluck.errors import Refused
from potluck.types import GuesserOffer
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.guessing import Broken, Follow, FromGuesser, Guessed, Loaded, decode_to_guesser
from potluck.wire.guessing import encode as packed
from potluck.wire.link import MemoryLink
from potluck.wire.messages import GuesserHears, GuesserSays, Kept, Leaving, Vocabulary
from potluck.wire.vocabulary import unpacked

OFFER = GuesserOffer("small", 100, VOCABULARY)
LETTERS = [TOKENIZER.piece(token) for token in range(END)] + [b""]


class GuessingNode(Node):
    """A node of which the test plays the small model."""

    async def offer(self, offer: GuesserOffer = OFFER, *, joins: bool = True) -> list[bytes]:
        """What the tokens of the model that is served stand for."""
        await introduce(self.link, hello(guesser=offer, joins=joins))
        message, payload = decode_from_coordinator(await self.link.receive())
        assert message == Vocabulary("toy", 64)
        return unpacked(payload)

    async def say(self, told: FromGuesser) -> None:
        await self.send(GuesserSays(), packed(told))

    async def hears(self) -> Follow:
        message, payload = decode_from_coordinator(await self.link.receive())
        assert isinstance(message, GuesserHears)
        told = decode_to_guesser(payload)
        assert isinstance(told, Follow)
        return told


def pool() -> GuesserPool:
    return GuesserPool("toy", TOKENIZER, VOCABULARY, 64)


async def guessing(guessers: GuesserPool) -> tuple[GuessingNode, Guesser]:
    """A node that guesses, and an answer for which it does."""
    node = GuessingNode(make_service(guessers=guessers))
    assert await node.offer() == LETTERS
    await node.say(Loaded())
    await until(lambda: guessers.is_here)
    return node, guessers.open()


def test_a_node_guesses_until_it_leaves() -> None:
    async def test() -> None:
        guessers = pool()
        node, guesser = await guessing(guessers)
        asking = asyncio.create_task(guesser.guess([1, 2, 3], 0))
        told = await node.hears()
        assert (told.position, told.tokens, told.until) == (0, [1, 2, 3], 4)
        await node.say(Guessed(told.answer, told.number, 7))
        assert await asking == 7
        waiting = asyncio.create_task(guesser.guess([1, 2, 3, 4], 0))
        await node.hears()
        await node.leave()
        assert await waiting is None
        assert await guesser.guess([1, 2, 3, 4], 0) is None
        assert not guessers.is_here

    run(test())


def test_when_one_is_lost_another_goes_on_with_the_answer_and_answers_are_shared_out() -> None:
    async def test() -> None:
        guessers = pool()
        first, guesser = await guessing(guessers)
        asking = [asyncio.create_task(guesser.guess([1, 2], 0))]
        await first.hears()
        second, other = await guessing(guessers)
        asking.append(asyncio.create_task(other.guess([5], 0)))
        told = await second.hears()
        assert told.tokens == [5]
        await second.say(Guessed(told.answer, told.number, 6))
        assert await asking[1] == 6
        await first.leave()
        assert await asking[0] is None
        asking.append(asyncio.create_task(guesser.guess([1, 2], 0)))
        told = await second.hears()
        assert told.tokens == [1, 2]
        await second.say(Guessed(told.answer, told.number, 3))
        assert await asking[2] == 3
        await second.leave()

    run(test())


def test_who_only_asks_learns_the_vocabulary_and_cannot_guess() -> None:
    async def test() -> None:
        guessers = pool()
        node = GuessingNode(make_service(guessers=guessers))
        assert await node.offer(joins=False) == LETTERS
        await node.say(Loaded())
        await node.serving
        assert not guessers.is_here

    run(test())


def test_a_model_that_takes_no_guesses_says_so() -> None:
    async def test() -> None:
        node = GuessingNode(make_service())
        await introduce(node.link, hello(guesser=OFFER))
        assert "takes no guesses" in await node.dropped()

    run(test())


@pytest.mark.parametrize(
    "offer",
    [GuesserOffer("small", 0, 5), GuesserOffer("small", 5, -1), GuesserOffer("two\nlines", 5, 5)],
)
def test_a_model_that_there_cannot_be_is_refused(offer: GuesserOffer) -> None:
    async def test() -> None:
        node = GuessingNode(make_service(guessers=pool()))
        await introduce(node.link, hello(guesser=offer))
        assert "cannot be" in await node.dropped()

    run(test())


NONSENSE = {
    "guesses of which nobody asked": (encode(GuesserSays(), packed(Guessed(1, 1, 1))), "more than it was asked"),
    "no life": (encode(GuesserSays(), packed(Loaded())), "says twice that it has loaded"),
    "its end": (encode(GuesserSays(), packed(Broken("No\x1b[2J memory."))), "it cannot run any more: No[2J memory."),
    "no message": (encode(GuesserSays(), b"\xc1"), "what cannot be understood"),
    "a nest": (encode(GuesserSays(), b"\x91" * 60_000), "what cannot be understood"),
    "no text": (encode(GuesserSays(), packed(Broken("abc")).replace(b"abc", b"\xff" * 3)), "cannot be understood"),
    "far too much": (encode(GuesserSays(), bytes(1 << 17)), "131072 bytes at once"),
    "what nodes with layers say": (encode(Kept(1, 1, 1, 0.0, 0.0)), "A node that guesses sent Kept."),
    "farewells": (encode(Leaving()), "A node that guesses sent Leaving."),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_a_node_that_says_what_it_should_not_is_cut_off(kind: str) -> None:
    frame, told = NONSENSE[kind]

    async def test() -> None:
        guessers = pool()
        node, guesser = await guessing(guessers)
        await node.link.send(frame)
        assert told in await node.dropped()
        assert await guesser.guess([1], 0) is None

    run(test())


def test_a_token_that_there_is_not_is_not_guessed() -> None:
    async def test() -> None:
        guessers = pool()
        node, guesser = await guessing(guessers)
        asking = asyncio.create_task(guesser.guess([1], 0))
        told = await node.hears()
        await node.say(Guessed(told.answer, told.number, VOCABULARY))
        assert f"token {VOCABULARY}, which there is not" in await node.dropped()
        assert await asking is None

    run(test())


def test_a_node_that_serves_layers_does_not_guess() -> None:
    async def test() -> None:
        service = make_service(guessers=pool())
        node = Node(service)
        await node.introduce()
        await node.receive()
        await node.send(GuesserSays(), packed(Loaded()))
        assert "sent a guess" in await node.dropped()

    run(test())


@pytest.mark.parametrize(
    ("act", "told"), [("revoke", "revoked"), ("distrust", "does not trust"), ("quarantine", "quarantine: it lied.")]
)
def test_the_owner_or_an_audit_can_end_it(act: str, told: str) -> None:
    async def test() -> None:
        guessers = pool()
        node, _ = await guessing(guessers)
        node.service.lobby.entrance.is_open = True
        match act:
            case "revoke":
                moderation_of(node.service).cut(NODE.public, "You are revoked.")
            case "distrust":
                moderation_of(node.service).trust(NODE.public, trusted=False)
            case _:
                node.service.gate.driver.quarantine("n9", NODE.public, "it lied")
        assert told in await node.dropped()
        assert not guessers.is_here
        if act == "quarantine":
            again = GuessingNode(node.service)
            await introduce(again.link, hello(guesser=OFFER))
            assert "in quarantine: it lied" in await again.dropped()

    run(test())


def test_where_strangers_may_not_come_a_guesser_needs_no_trust() -> None:
    async def test() -> None:
        guessers = pool()
        node, _ = await guessing(guessers)
        moderation_of(node.service).trust(NODE.public, trusted=False)
        await asyncio.sleep(0)
        assert guessers.is_here
        await node.leave()

    run(test())


def test_a_model_that_cannot_follow_an_answer_is_not_asked_for_it() -> None:
    async def test() -> None:
        guessers = pool()
        service = make_service(guessers=guessers)
        nodes = []
        for offer in (GuesserOffer("short", 2, VOCABULARY), GuesserOffer("poor", 100, 2), OFFER):
            nodes.append(GuessingNode(service))
            await nodes[-1].offer(offer)
            await nodes[-1].say(Loaded())
            await until(lambda: len(guessers.names) == len(nodes))
        guesser = guessers.open()
        asking = asyncio.create_task(guesser.guess([0, 1, 3], 0))
        told = await nodes[2].hears()
        await nodes[2].say(Guessed(told.answer, told.number, 7))
        assert await asking == 7
        await nodes[2].leave()
        assert await guesser.guess([0, 1, 3], 0) is None
        asking = asyncio.create_task(guesser.guess([1], 0))
        told = await nodes[0].hears()
        await nodes[0].say(Guessed(told.answer, told.number, 1))
        assert await asking == 1
        asking = asyncio.create_task(guesser.guess([1, 1], 0))  # which the short one cannot follow any more
        told = await nodes[1].hears()
        await nodes[1].say(Guessed(told.answer, told.number, 0))
        assert await asking == 0
        for node in nodes[:2]:
            await node.leave()

    run(test())


def test_a_node_that_reads_too_slowly_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_MOST_WAITING", 3)

    async def test() -> None:
        guessers = pool()
        node, _ = await guessing(guessers)
        answers = [guessers.open() for _ in range(5)]
        asking = [asyncio.create_task(answer.guess([1], 0)) for answer in answers]  # in one turn of the event loop
        await node.serving
        assert await asyncio.gather(*asking) == [None] * 5
        assert not guessers.is_here

    run(test())


@pytest.mark.parametrize("trusted", [False, True])
def test_in_an_open_swarm_only_trusted_nodes_read_every_answer(trusted: bool) -> None:
    class Door:
        def admit(self, key: bytes, name: str, invite: str, joins: bool = True) -> Entry:
            admitted.append(joins)
            return Entry("", trusted=trusted)

    admitted: list[bool] = []

    async def meet() -> Entry:
        ours, theirs = MemoryLink.pair()
        meeting = asyncio.create_task(Reception(COORDINATOR, Door(), is_open=True).meet(theirs))
        await introduce(ours, hello(guesser=OFFER, joins=False))
        return (await meeting)[1]

    if trusted:
        assert run(meet()).trusted
    else:
        with pytest.raises(Refused, match=f"potluck node trust URL {NODE.public.hex()[:16]}"):
            run(meet())
    assert admitted == [True]  # also one that only asks is known afterwards, so that the owner can trust it
