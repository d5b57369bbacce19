"""What is said to the process of a small model that guesses, and what it says, as frames on its pipes."""

from __future__ import annotations

from typing import IO

import msgspec
from msgspec import Struct

from potluck.errors import WireError
from potluck.types import Capacity

LENGTH_BYTES = 4
MOST_TOLD = 1 << 16
"""The most bytes of what the process says at once."""


class Order(Struct, frozen=True):
    """What the process loads, as JSON on its command line. path: the model in a single span file of all its layers.

    vocabulary: the ids below this may be guessed.
    """

    path: str
    layers: int
    capacity: Capacity
    threads: int
    vocabulary: int


class Follow(Struct, frozen=True, tag=True):
    """The first `position` tokens of the answer stay, then come these, and nothing else is known of it.

    number: goes up with each turn that the answer takes, so that guesses about an earlier one are told apart. With the
    same number and no tokens, nothing changes but `until`. until: guesses are wanted for the positions before this one.
    """

    answer: int
    number: int
    position: int
    tokens: list[int]
    until: int


class Leave(Struct, frozen=True, tag=True):
    """The answer has ended."""

    answer: int


class Ping(Struct, frozen=True, tag=True):
    """Asks for a sign of life."""


class Loaded(Struct, frozen=True, tag=True):
    """The first message of the process: it can guess now."""


class Broken(Struct, frozen=True, tag=True):
    """Its first and last message: the model cannot be run here. message: a sentence that says why."""

    message: str


class Guessed(Struct, frozen=True, tag=True):
    """The token that comes next, behind those of the answer and what was guessed before. number: that of the turn."""

    answer: int
    number: int
    token: int


class Pong(Struct, frozen=True, tag=True):
    pass


ToGuesser = Follow | Leave | Ping
FromGuesser = Loaded | Broken | Guessed | Pong

_encoder = msgspec.msgpack.Encoder()
decode_to_guesser = msgspec.msgpack.Decoder(ToGuesser).decode
_from_guesser = msgspec.msgpack.Decoder(FromGuesser)
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The exceptions that decoding raises for bytes that are not a message."""


def decode_from_guesser(message: bytes) -> FromGuesser:
    """What a small model says. Raises WireError when it cannot be understood."""
    try:
        told: FromGuesser = _from_guesser.decode(message)
    except _MALFORMED as error:
        raise WireError("it says what cannot be understood") from error
    return told


def encode(message: ToGuesser | FromGuesser) -> bytes:
    return _encoder.encode(message)


def framed(message: ToGuesser | FromGuesser) -> bytes:
    """A message as it goes through a pipe."""
    return with_length(encode(message))


def with_length(body: bytes | memoryview) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def receive(pipe: IO[bytes]) -> ToGuesser | None:
    """The next message to the process; None if the other end is gone."""
    head = pipe.read(LENGTH_BYTES)
    size = int.from_bytes(head, "big")
    body = pipe.read(size) if len(head) == LENGTH_BYTES else b""
    return decode_to_guesser(body) if len(body) == size and len(head) == LENGTH_BYTES else None
