"""What tests that play a node need before they are admitted."""

from __future__ import annotations

from potluck.coordinator.gateway.reception import Reception
from potluck.coordinator.members.door import OpenDoor
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.handshake import NONCE_BYTES, sign_hello
from potluck.wire.identity import Identity
from potluck.wire.link import Link
from potluck.wire.messages import PROTOCOL_VERSION, Challenge, Greeting, Hello

COORDINATOR, NODE = Identity.fresh(), Identity.fresh()
_GREETING = Greeting(PROTOCOL_VERSION, bytes(NONCE_BYTES))
GREETING = encode(_GREETING)
"""The first frame."""


def reception() -> Reception:
    """Of a coordinator that everybody may join."""
    return Reception(COORDINATOR, OpenDoor())


def answer(challenge: bytes, hello: Hello, identity: Identity = NODE) -> bytes:
    """The hello, signed as the answer to the coordinator's first frame."""
    message, _ = decode_from_coordinator(challenge)
    assert isinstance(message, Challenge)
    return encode(sign_hello(hello, identity, _GREETING, message))


async def introduce(link: Link, hello: Hello, identity: Identity = NODE) -> None:
    """All that comes before the welcome."""
    await link.send(GREETING)
    await link.send(answer(await link.receive(), hello, identity))
