"""The stay of a node that guesses how answers go on, and serves no layers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from potluck.errors import Refused, WireError
from potluck.types import Coordinator, GuesserOffer, is_label
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.link import Link
from potluck.wire.messages import GuesserHears, GuesserSays, Hello, Vocabulary

log = logging.getLogger(__name__)


class Guessers(Protocol):
    """The answers for which small models of nodes guess. model, context: the name of the model that is served, and the
    most positions of a session.
    """

    model: str
    context: int

    async def packed_vocabulary(self) -> bytes:
        """What its tokens stand for, as the payload of a frame."""

    async def serve(
        self, offer: GuesserOffer, receive: Callable[[], Awaitable[bytes]], send: Callable[[bytes], None]
    ) -> None:
        """Let a node's small model guess. receive, send: carry what it says and what it is told.

        Raises Refused when it is of no use, WireError when it cannot be understood, or what `receive` raises.
        """


async def serve_guesser(
    guessers: Guessers | None,
    node: str,
    hello: Hello,
    link: Link,
    send: Callable[[bytes], None],
    fleet: tuple[Coordinator, ...] = (),
) -> None:
    """Serve the whole stay of a node that is admitted to guess, which ends with its link. One that only asks gets an
    answer.

    guessers: None if the model that is served takes no guesses. send: puts a frame into the node's outbox.
    fleet: the other coordinators where it may guess, of which it learns when it joins.
    Raises Refused, WireError, or LinkClosed.
    """
    offer = hello.guesser
    assert offer is not None
    if guessers is None:
        raise Refused("The model of this swarm takes no guesses, because it cannot take back what it has read.")
    if offer.context < 1 or offer.vocabulary < 1 or not is_label(offer.name):
        raise WireError("A node offers to guess with a model that there cannot be.")
    told = Vocabulary(guessers.model, guessers.context, fleet if hello.joins else ())
    send(encode(told, await guessers.packed_vocabulary()))
    if not hello.joins:
        return
    log.info("Node %s (%s) offers to guess with %s.", hello.name, node, offer.name)
    try:
        await guessers.serve(offer, partial(_said, link), lambda told: send(encode(GuesserHears(), told)))
    finally:
        log.info("Node %s (%s) does not guess any more.", hello.name, node)


async def _said(link: Link) -> bytes:
    """What the small model says next."""
    message, payload = decode_from_node(await link.receive())
    if not isinstance(message, GuesserSays):
        raise WireError(f"A node that guesses sent {type(message).__name__}.")
    return bytes(payload)
