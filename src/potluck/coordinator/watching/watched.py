"""The served models as those see them who watch: each of them, and what is told of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, Struct, UnsetType

from potluck.coordinator.audits.audits import Audits
from potluck.coordinator.relay.trace import Trace
from potluck.coordinator.sessions.claim import Rank
from potluck.coordinator.swarm.swarm import Swarm


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A model that is served. names: those by which it is asked for, which no other model has. hops: its latest ones.

    status: returns its status as JSON on one line, for a reader who may see the names of some accounts.
    waiting: returns the number of the requests in its line, by class. asked: whether anybody has ever asked for it.
    """

    names: tuple[str, ...]
    status: Callable[[Callable[[str], bool]], bytes]
    swarm: Swarm
    audits: Audits
    waiting: Callable[[], Counter[Rank]]
    hops: Trace
    asked: Callable[[], bool] = lambda: True

    @property
    def name(self) -> str:
        return self.names[0]


class _Several(Struct, omit_defaults=True):
    models: list[msgspec.Raw]
    idle: msgspec.Raw | UnsetType = UNSET


_LIST = b'{"models":['


def together(told: Sequence[bytes], idle: bytes | None = None) -> bytes:
    """One answer from the JSON objects that are told of each model: the object of the only one, or a list of all.

    idle: the nodes that wait until somebody asks for a model, as JSON, beside a list in any case; None where no models
    are offered.
    """
    if idle is None:
        return told[0] if len(told) == 1 else b"%b%b]}" % (_LIST, b",".join(told))
    return b'%b%b],"idle":%b}' % (_LIST, b",".join(told), idle)


def apart(answer: bytes) -> tuple[list[bytes], bytes | None]:
    """The objects of an answer, and the nodes that wait: the opposite of `together`."""
    if not answer.startswith(_LIST):
        return [answer], None
    several = msgspec.json.decode(answer, type=_Several)
    idle = None if several.idle is UNSET else bytes(several.idle)
    return [*map(bytes, several.models)], idle
