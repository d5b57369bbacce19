"""The served models as those see them who watch: each of them, and what is told of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from potluck.coordinator.audits.audits import Audits
from potluck.coordinator.relay.trace import Trace
from potluck.coordinator.sessions.claim import Rank
from potluck.coordinator.swarm.swarm import Swarm


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A model that is served. names: those by which it is asked for, which no other model has. hops: its latest ones.

    status: returns its status as JSON on one line, for a reader who may see the names of some accounts.
    waiting: returns the number of the requests in its line, by class.
    """

    names: tuple[str, ...]
    digest: str
    status: Callable[[Callable[[str], bool]], bytes]
    swarm: Swarm
    audits: Audits
    waiting: Callable[[], Counter[Rank]]
    hops: Trace

    @property
    def name(self) -> str:
        return self.names[0]


class _Several(Struct):
    models: list[msgspec.Raw]


def together(told: Sequence[bytes]) -> bytes:
    """One answer from the JSON objects that are told of each model: the object of the only one, or a list of all."""
    return told[0] if len(told) == 1 else b'{"models":[%b]}' % b",".join(told)


def apart(answer: bytes, models: int) -> list[bytes]:
    """The objects of an answer about this number of models: the opposite of `together`."""
    return [answer] if models == 1 else [*map(bytes, msgspec.json.decode(answer, type=_Several).models)]
