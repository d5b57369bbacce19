"""The node's side of the handshake: it makes sure whom it talks to, and then says who it is."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

import msgspec

from potluck.errors import IdentityError, Refused, WireError
from potluck.node.pins import Pins
from potluck.wire import handshake
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.identity import Identity, fingerprint
from potluck.wire.link import Link
from potluck.wire.messages import PROTOCOL_VERSION, Challenge, FromCoordinator, Greeting, Hello, Ping, Pong, Refusal
from potluck.wire.origin import is_loopback, origin

Kind = TypeVar("Kind", bound=FromCoordinator)


class Introduction:
    """url: of the coordinator. invite: what opens its door, or empty. say: tells the node's owner a sentence.

    Coordinators on this machine's loopback are not pinned: whoever answers there runs programs on it already.
    """

    def __init__(self, identity: Identity, url: str, invite: str, pins: Pins, say: Callable[[str], None]) -> None:
        self._identity = identity
        self._url = url
        self._invite = invite
        self._pins = pins
        self._say = say

    async def make(self, link: Link, hello: Hello) -> None:
        """Greet the coordinator, and say this hello with all that proves it once the coordinator is recognised.

        Raises IdentityError when the coordinator is not the one it should be, Refused with its reason.
        """
        greeting = Greeting(PROTOCOL_VERSION, secrets.token_bytes(handshake.NONCE_BYTES))
        await link.send(encode(greeting))
        challenge = await expect(link, Challenge)
        handshake.check_challenge(greeting, challenge)
        self._recognise(challenge.key)
        hello = msgspec.structs.replace(hello, url=self._url, invite=self._invite)
        await link.send(encode(handshake.sign_hello(hello, self._identity, greeting, challenge)))

    def _recognise(self, key: bytes) -> None:
        _, named, invited = self._invite.partition(".")
        if named and invited != fingerprint(key):
            raise IdentityError(
                f"The invite is for a coordinator with the key {invited}, and {self._url} has {fingerprint(key)}: "
                "somebody else may be in its place."
            )
        if not is_loopback(self._url) and not self._pins.recognise(origin(self._url), key):
            self._say(f"{self._url} has the key {fingerprint(key)}, and is known by it from now on.")


async def expect(link: Link, kind: type[Kind]) -> Kind:
    """The coordinator's next message besides pings, which are answered.

    Raises Refused with its reason, WireError when it is something else.
    """
    while isinstance((received := decode_from_coordinator(await link.receive()))[0], Ping):
        await link.send(encode(Pong(received[0].number, 0), received[1]))
    message, _ = received
    if isinstance(message, Refusal):
        raise Refused(message.reason)
    if not isinstance(message, kind):
        raise WireError(f"The coordinator sent {type(message).__name__} where {kind.__name__} was due.")
    return message
