"""The node's side of the handshake: it checks whom it talks to, and then says who it is."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

import msgspec

from potluck.errors import IdentityError, Refused, WireError
from potluck.node.pins import Pins
from potluck.types import Coordinator
from potluck.wire import handshake
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.fleet import Fleet
from potluck.wire.identity import Identity, fingerprint
from potluck.wire.link import Link
from potluck.wire.messages import (
    PROTOCOL_VERSION,
    Challenge,
    FromCoordinator,
    Greeting,
    Hello,
    Notice,
    Ping,
    Pong,
    Refusal,
    Welcome,
)
from potluck.wire.origin import is_loopback, origin

Kind = TypeVar("Kind", bound=FromCoordinator)


class Introduction:
    """Introduces a node to its coordinator, or to another one of its fleet.

    url, invite: the coordinator's, and the text that admits this node there, or empty; other coordinators know the node
    by its key, and are not shown the invite. say: receives sentences for the owner.
    Coordinators on this machine's loopback are not pinned, because whoever answers there already runs programs on it.
    """

    def __init__(self, identity: Identity, url: str, invite: str, pins: Pins, say: Callable[[str], None]) -> None:
        self._identity = identity
        self._url = url
        self._invite = invite
        self._pins = pins
        self._say = say

    async def make(self, link: Link, hello: Hello, other: Coordinator | None = None) -> None:
        """Greet the coordinator. Once it is recognised, send this hello with everything that proves it.

        other: the coordinator at the end of this link, and the key that it must have, if it is not the owner's.
        Raises IdentityError when the coordinator is not the right one, Refused with the coordinator's reason.
        """
        greeting = Greeting(PROTOCOL_VERSION, secrets.token_bytes(handshake.NONCE_BYTES))
        await link.send(encode(greeting))
        challenge, _ = await expect(link, Challenge)
        handshake.check_challenge(greeting, challenge)
        if other is None:
            self._check_invite(challenge.key)
            hello = msgspec.structs.replace(hello, url=self._url, invite=self._invite)
        else:
            _check_told(other, challenge.key)
            hello = msgspec.structs.replace(hello, url=other.url, invite="")
        self._recognise(hello.url, challenge.key)
        await link.send(encode(handshake.sign_hello(hello, self._identity, greeting, challenge)))

    def _check_invite(self, key: bytes) -> None:
        _, named, invited = self._invite.partition(".")
        if named and invited != fingerprint(key):
            raise IdentityError(
                f"The invite is for a coordinator with the key {invited}, but {self._url} has {fingerprint(key)}: "
                "another machine may be impersonating it."
            )

    def _recognise(self, url: str, key: bytes) -> None:
        if not is_loopback(url) and not self._pins.recognise(origin(url), key):
            told = f"{url} has the key {fingerprint(key)}. "
            self._say(f"{told}This machine will recognise it by that key from now on.")


def _check_told(other: Coordinator, key: bytes) -> None:
    """Raises IdentityError unless the coordinator has the key that others of its fleet have told."""
    if other.key != key:
        raise IdentityError(
            f"{other.url} has the key {fingerprint(key)}, but another coordinator of its fleet named "
            f"{fingerprint(other.key)}: another machine may be impersonating it."
        )


async def expect(link: Link, kind: type[Kind]) -> tuple[Kind, memoryview]:
    """The coordinator's next message other than pings, which are answered, and its payload.

    Raises Refused with the coordinator's reason, WireError when the message is of another kind.
    """
    message, payload = await _received(link)
    if not isinstance(message, kind):
        raise WireError(f"The coordinator sent {type(message).__name__} instead of {kind.__name__}.")
    return message, payload


async def answer(link: Link) -> Welcome | Fleet | str:
    """The coordinator's answer to a hello: the welcome, or a sentence if the node has to wait for it. While it waits,
    it may also hear of other coordinators.

    Raises what `expect` raises.
    """
    match (await _received(link))[0]:
        case Welcome() | Fleet() as told:
            return told
        case Notice(text):
            return text
        case message:
            raise WireError(f"The coordinator sent {type(message).__name__} instead of a welcome.")


async def _received(link: Link) -> tuple[FromCoordinator, memoryview]:
    """The next message other than pings. Raises Refused with the coordinator's reason."""
    while isinstance((received := decode_from_coordinator(await link.receive()))[0], Ping):
        await link.send(encode(Pong(received[0].number, 0), received[1]))
    message, payload = received
    if isinstance(message, Refusal):
        raise Refused(message.reason)
    return message, payload
