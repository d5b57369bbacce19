from typing import Any

import msgspec
import pytest

from potluck.errors import IdentityError, WireError
from potluck.wire.handshake import NONCE_BYTES, challenge, check_challenge, check_hello, sign_hello
from potluck.wire.identity import Identity
from potluck.wire.messages import PROTOCOL_VERSION, Challenge, Greeting, Hello

COORDINATOR, NODE, OTHER = Identity.fresh(), Identity.fresh(), Identity.fresh()
GREETING = Greeting(PROTOCOL_VERSION, b"n" * NONCE_BYTES)
NONCE = b"c" * NONCE_BYTES
CHALLENGE = challenge(COORDINATOR, GREETING, NONCE)
PLAIN = Hello("anna", "0.1", "", None, 1 << 30, 4, url="http://anna:8470", invite="secret")
HELLO = sign_hello(PLAIN, NODE, GREETING, CHALLENGE)


def changed(message: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(message, **changes)


def test_both_ends_prove_their_keys() -> None:
    check_challenge(GREETING, CHALLENGE)
    check_hello(HELLO, GREETING, CHALLENGE)
    assert (CHALLENGE.key, HELLO.key) == (COORDINATOR.public, NODE.public)
    assert changed(HELLO, key=b"", proof=b"") == PLAIN


@pytest.mark.parametrize(
    "forged",
    [
        changed(CHALLENGE, key=OTHER.public),
        changed(CHALLENGE, nonce=b"x" * NONCE_BYTES),
        changed(CHALLENGE, proof=b""),
        changed(CHALLENGE, proof=bytes(64)),
        changed(CHALLENGE, key=b""),
        changed(CHALLENGE, key=COORDINATOR.public, proof=challenge(OTHER, GREETING, NONCE).proof),
    ],
    ids=["another key", "another nonce", "no proof", "zeros", "no key", "the proof of another key"],
)
def test_a_coordinator_that_does_not_prove_its_key(forged: Challenge) -> None:
    with pytest.raises(IdentityError, match="does not prove the key"):
        check_challenge(GREETING, forged)


def test_a_challenge_answers_one_greeting_only() -> None:
    with pytest.raises(IdentityError, match="does not prove the key"):
        check_challenge(changed(GREETING, nonce=b"x" * NONCE_BYTES), CHALLENGE)


@pytest.mark.parametrize(
    "forged",
    [
        changed(HELLO, key=OTHER.public),
        changed(HELLO, url="http://ben:8470"),
        changed(HELLO, invite="mine"),
        changed(HELLO, proof=b""),
        changed(HELLO, proof=sign_hello(PLAIN, OTHER, GREETING, CHALLENGE).proof),
        changed(HELLO, proof=CHALLENGE.proof),
        PLAIN,
    ],
    ids=[
        "another key",
        "another URL",
        "another invite",
        "no proof",
        "of another",
        "the coordinator's",
        "unsigned",
    ],
)
def test_a_node_that_does_not_prove_its_key(forged: Hello) -> None:
    with pytest.raises(IdentityError, match="does not prove the key"):
        check_hello(forged, GREETING, CHALLENGE)


@pytest.mark.parametrize(
    ("greeting", "answer"),
    [
        (changed(GREETING, nonce=b"x" * NONCE_BYTES), CHALLENGE),
        (GREETING, challenge(COORDINATOR, GREETING, b"x" * NONCE_BYTES)),
        (GREETING, challenge(OTHER, GREETING, NONCE)),
    ],
    ids=["another greeting", "another challenge", "another coordinator"],
)
def test_a_proof_is_good_for_one_conversation_only(greeting: Greeting, answer: Challenge) -> None:
    with pytest.raises(IdentityError, match="does not prove the key"):
        check_hello(HELLO, greeting, answer)


def test_neither_end_can_pass_off_the_others_words() -> None:
    """A coordinator that greets another with a nonce of its choice gets nothing that a node would have signed."""
    mirrored = challenge(NODE, changed(GREETING, nonce=NONCE), GREETING.nonce)
    with pytest.raises(IdentityError):
        check_hello(changed(HELLO, proof=mirrored.proof), GREETING, CHALLENGE)


@pytest.mark.parametrize("size", [0, 31, 33, 1 << 20])
def test_a_nonce_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(WireError, match=f"{size} bytes instead of 32"):
        challenge(COORDINATOR, changed(GREETING, nonce=bytes(size)), NONCE)
    with pytest.raises(WireError, match=f"{size} bytes instead of 32"):
        check_challenge(GREETING, changed(CHALLENGE, nonce=bytes(size)))
