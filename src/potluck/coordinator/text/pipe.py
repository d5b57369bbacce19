"""What the coordinator and the children that read texts for it say to each other, and the frames on their pipes."""

from __future__ import annotations

import sys
from typing import IO, Any

import msgspec
from msgspec import Struct

from potluck.coordinator.text.thinking import Place

_LENGTH_BYTES = 8


class OfText(Struct, frozen=True, tag=True):
    """A request for `Encoder.of_text`."""

    text: str
    most: int


class OfChat(Struct, frozen=True, tag=True):
    """A request for `Encoder.of_chat`."""

    messages: list[Any]
    options: dict[str, Any]
    most: int


class OfPrediction(Struct, frozen=True, tag=True):
    """A request for `Encoder.of_prediction`."""

    text: str
    most: int


class Shown(Struct, frozen=True, tag=True):
    """A request for `Encoder.shown`, whose reply is the list itself."""

    text: str
    bos: bool
    pieces: bool


class TextOf(Struct, frozen=True, tag=True):
    """A request for `Encoder.text_of`."""

    tokens: list[int]


Request = OfText | OfChat | OfPrediction | Shown | TextOf


class Ready(Struct, frozen=True, tag=True):
    """A child's first message. calls, thinking: the names of the template's. stops: as an encoder has them."""

    calls: str
    thinking: str | None
    stops: tuple[str, ...]


class Broken(Struct, frozen=True, tag=True):
    """A child's first and last message, where the model's tokenizer or template is broken."""

    message: str


class Rendered(Struct, frozen=True, tag=True):
    """The chat has become a text; its tokens follow. So it is known what took too long, if something does.

    place, end: as a prompt has them.
    """

    place: Place
    end: str | None


class Tokens(Struct, frozen=True, tag=True):
    tokens: list[int]


class TooMany(Struct, frozen=True, tag=True):
    """The field of a TooManyTokens."""

    count: int


class Text(Struct, frozen=True, tag=True):
    text: str


class Refused(Struct, frozen=True, tag=True):
    """The fields of a RequestError."""

    message: str
    status: int
    param: str | None


First = Ready | Broken
Reply = Rendered | Tokens | TooMany | Text | Refused

# JSON, as requests are: every number and every text of theirs survives it unchanged.
encode = msgspec.json.encode
decode_request = msgspec.json.Decoder(Request).decode
decode_first = msgspec.json.Decoder(First).decode
decode_reply = msgspec.json.Decoder(Reply).decode


def send(pipe: IO[bytes], body: bytes) -> None:
    pipe.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)
    pipe.flush()


def receive(pipe: IO[bytes], most: int = sys.maxsize) -> bytes | None:
    """The next body; None if the other end is gone. Raises ValueError when it would have more bytes than this."""
    head = pipe.read(_LENGTH_BYTES)
    size = int.from_bytes(head, "big")
    if size > most:
        raise ValueError(f"a body of {size} bytes")
    body = pipe.read(size) if len(head) == _LENGTH_BYTES else b""
    return body if len(head) == _LENGTH_BYTES and len(body) == size else None
