"""The ids of a stream's events: whose answer it is, and how much of it a client has. Pure."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from potluck.errors import RequestError

SECRET_BYTES = 16

_ID = re.compile(r"([-\w]{22})\.([0-9]{1,9}(?:,[0-9]{1,9})*)(?:\.([0-9]{1,9}))?", re.ASCII)
_LONGEST = 32 << 10


@dataclass(frozen=True)
class EventId:
    """The id of an event. secret: the answer's, which opens what is kept of it.

    counts: the events up to this one, by the number of the choice that they belong to. ending: those after all choices.
    """

    secret: bytes
    counts: tuple[int, ...]
    ending: int = 0

    @classmethod
    def parse(cls, text: str) -> EventId:
        """The id in a Last-Event-ID header. Raises RequestError when it is none."""
        found = _ID.fullmatch(text) if len(text) <= _LONGEST else None
        if found is None:
            raise RequestError("Last-Event-ID must be the id of an event of a stream, as it was sent.")
        secret = urlsafe_b64decode(f"{found[1]}==")
        return cls(secret, tuple(map(int, found[2].split(","))), int(found[3] or 0))

    def __str__(self) -> str:
        secret = urlsafe_b64encode(self.secret).decode().rstrip("=")
        return f"{secret}.{','.join(map(str, self.counts))}" + (f".{self.ending}" if self.ending else "")


class Numbering:
    """Gives the events of a stream their ids, and leaves out those that the client has. seen: the last one it has."""

    def __init__(self, secret: bytes, choices: int, seen: EventId | None = None) -> None:
        self._secret = secret
        self._seen = [*seen.counts, seen.ending] if seen is not None else [0] * (choices + 1)
        self._made = [0] * (choices + 1)

    def numbered(self, choice: int | None, events: bytes) -> bytes:
        """These events as the client is sent them. choice: whose they are; None for those after all choices."""
        return b"".join(self._numbered(-1 if choice is None else choice, events.split(b"\n\n")[:-1]))

    def _numbered(self, place: int, events: Sequence[bytes]) -> list[bytes]:
        told = []
        for event in events:
            self._made[place] += 1
            if self._made[place] > self._seen[place]:
                self._seen[place] += 1
                *counts, ending = self._seen
                told.append(f"id: {EventId(self._secret, tuple(counts), ending)}\n".encode() + event + b"\n\n")
        return told
