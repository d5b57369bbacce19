"""The statements that both ends sign before a node is admitted, and their checks. Without clock, chance and I/O.

    node → Greeting(nonce)      coordinator → Challenge(nonce, key, proof)      node → Hello(key, url, invite, proof)

The coordinator proves its key first, so that a node tells an impostor neither its invite nor its name. Each proof signs
the other end's nonce, so that none can be replayed. The node's proof covers the URL that it dialled and the
coordinator's key, so that nobody who receives it can pass it on to another coordinator as their own.
"""

from __future__ import annotations

import hashlib

import msgspec

from potluck.errors import IdentityError, WireError
from potluck.wire.identity import Identity, verify
from potluck.wire.messages import PROTOCOL_VERSION, Challenge, Greeting, Hello

NONCE_BYTES = 32


def challenge(identity: Identity, greeting: Greeting, nonce: bytes) -> Challenge:
    """The coordinator's answer to a greeting. Raises WireError when the greeting's nonce has the wrong length."""
    _check_nonce(greeting.nonce)
    proof = identity.sign(_of_coordinator(greeting.nonce, nonce, identity.public))
    return Challenge(nonce, identity.public, proof)


def check_challenge(greeting: Greeting, answer: Challenge) -> None:
    """Raises IdentityError unless the challenge answers this greeting and the coordinator has the key that it shows."""
    _check_nonce(answer.nonce)
    if not verify(answer.key, answer.proof, _of_coordinator(greeting.nonce, answer.nonce, answer.key)):
        raise IdentityError(
            "The coordinator does not prove the key that it shows: another machine may be impersonating it."
        )


def sign_hello(hello: Hello, identity: Identity, greeting: Greeting, answer: Challenge) -> Hello:
    """The hello with the node's key, and the proof of it."""
    keyed = msgspec.structs.replace(hello, key=identity.public)
    return msgspec.structs.replace(keyed, proof=identity.sign(_of_node(keyed, greeting, answer)))


def check_hello(hello: Hello, greeting: Greeting, answer: Challenge) -> None:
    """Raises IdentityError unless the node has the key that it shows and its hello answers this challenge."""
    if not verify(hello.key, hello.proof, _of_node(hello, greeting, answer)):
        raise IdentityError("The node does not prove the key that it shows.")


def _check_nonce(nonce: bytes) -> None:
    if len(nonce) != NONCE_BYTES:
        raise WireError(f"A nonce has {len(nonce)} bytes instead of {NONCE_BYTES}.")


def _of_coordinator(node_nonce: bytes, nonce: bytes, key: bytes) -> bytes:
    return _statement("coordinator", node_nonce, nonce, key)


def _of_node(hello: Hello, greeting: Greeting, answer: Challenge) -> bytes:
    invite = hashlib.sha256(hello.invite.encode()).digest()
    return _statement("node", greeting.nonce, answer.nonce, answer.key, hello.key, hello.url, invite)


def _statement(speaker: str, *parts: bytes | str) -> bytes:
    """The bytes to sign. They name their speaker, so that neither end's words can be passed off as the other's."""
    return msgspec.msgpack.encode(("potluck", PROTOCOL_VERSION, speaker, *parts))
