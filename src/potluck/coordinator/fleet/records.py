"""What the coordinators of a fleet tell each other: a record of each, and news. All of it is sealed with the fleet's
key, so that whoever else can write to the NATS server cannot make them believe anything.

Unknown fields and unknown kinds of news are skipped, because a newer version may send them.
"""

from __future__ import annotations

from itertools import groupby
from typing import TypeVar

import msgspec
from msgspec import Struct

from potluck.errors import WireError
from potluck.types import Span
from potluck.wire.identity import Identity, verify

RECORDS = "coordinator"
"""The beginning of the names of records in the bucket."""
NEWS = "potluck.news"
"""The subject of news."""
PASS = "pass"
"""The place for which passes are sealed."""

FRESH_S = 120.0
"""What was sealed more than this many seconds ago, or ahead, is refused: it may have been recorded and sent again."""


class ModelRecord(Struct, frozen=True, omit_defaults=True):
    """A model at one coordinator.

    names: the one that answers say first. served: how many ready nodes serve each layer, as runs of equal counts
    (count, layers). loading: whether nodes load some. waiting, streams: requests that wait, and answers under way.
    state: as `/v1/models` tells it.
    """

    names: tuple[str, ...]
    digest: str
    context: int
    served: tuple[tuple[int, int], ...]
    loading: bool = False
    waiting: int = 0
    streams: int = 0
    state: str = ""

    @property
    def counts(self) -> list[int]:
        """How many ready nodes serve each layer."""
        return [count for count, layers in self.served for _ in range(layers)]

    @property
    def covered(self) -> bool:
        return bool(self.served) and min(count for count, _ in self.served) > 0

    @property
    def missing(self) -> list[Span]:
        """The spans that no node serves."""
        spans, first = [], 0
        for count, layers in self.served:
            if not count:
                spans.append(Span(first, first + layers - 1))
            first += layers
        return spans


class Record(Struct, frozen=True, omit_defaults=True):
    """A coordinator. key: its public key. started: Unix time. number: of this record since then. at: Unix time.

    gone: whether it has ended.
    """

    key: bytes
    url: str
    version: str
    started: float
    number: int
    at: float
    models: tuple[ModelRecord, ...] = ()
    gone: bool = False

    @property
    def age(self) -> tuple[float, int]:
        """What grows from record to record of the same coordinator."""
        return self.started, self.number

    def of(self, name: str) -> ModelRecord | None:
        """The model with this name."""
        return next((model for model in self.models if name in model.names), None)


class Usage(Struct, frozen=True, omit_defaults=True, tag="usage"):
    """What accounts and keys have used at the sender since its last one.

    accounts: credits earned and spent, as the database has them. limits: seconds of rate limits, by their names.
    shares: by the model's digest, what accounts took of its queue, as (rank, account, work over weight).
    """

    accounts: dict[str, tuple[int, int]] = {}
    limits: dict[str, float] = {}
    shares: dict[str, tuple[tuple[int, str, float], ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.accounts or self.limits or self.shares)


class Marked(Struct, frozen=True, omit_defaults=True, tag="marked"):
    """The owner has marked a node, or it was caught. key: its public key. None: unchanged.

    quarantine: what it was caught at.
    """

    key: bytes
    trusted: bool | None = None
    revoked: bool | None = None
    quarantine: str | None = None


News = Usage | Marked


class Told(Struct, frozen=True):
    """News from the coordinator with this public key. at: Unix time. news: as msgpack.

    started, number: when the sender started, and the number of the news since then.
    """

    sender: bytes
    at: float
    news: msgspec.Raw
    started: float
    number: int

    @property
    def age(self) -> tuple[float, int]:
        """What grows with everything that the sender tells."""
        return self.started, self.number


Dated = TypeVar("Dated", Record, Told)


class _Sealed(Struct, frozen=True, array_like=True):
    body: bytes
    signature: bytes


def runs_of(counts: list[int]) -> tuple[tuple[int, int], ...]:
    """Runs of equal counts, as (count, how often it comes)."""
    return tuple((count, len(list(same))) for count, same in groupby(counts))


def seal(fleet: Identity, place: str, value: Struct) -> bytes:
    """The value, signed for this place alone: a name in the bucket, or a subject."""
    body = msgspec.msgpack.encode(value)
    return msgspec.msgpack.encode(_Sealed(body, fleet.sign(_statement(place, body))))


def unseal(fleet: bytes, place: str, sealed: bytes) -> bytes:
    """What was sealed for this place. fleet: the public key. Raises WireError for what the fleet did not seal."""
    try:
        found = msgspec.msgpack.decode(sealed, type=_Sealed)
    except msgspec.MsgspecError as error:
        raise WireError(f"What came for {place} is not sealed.") from error
    if not verify(fleet, found.signature, _statement(place, found.body)):
        raise WireError(f"What came for {place} is sealed with another key than the fleet's.")
    return found.body


def _statement(place: str, body: bytes) -> bytes:
    return msgspec.msgpack.encode(("potluck-fleet", place, body))


def is_fresh(at: float, now: float) -> bool:
    return abs(now - at) <= FRESH_S


def record_of(fleet: bytes, name: str, sealed: bytes, now: float) -> Record:
    """The record with this name in the bucket. Raises WireError for one that is forged, stale or another's."""
    record = _opened(fleet, name, sealed, Record, now)
    if name != name_of(record.key):
        raise WireError(f"The record {name} is that of another coordinator.")
    return record


def name_of(key: bytes) -> str:
    """The name of a coordinator's record in the bucket."""
    return f"{RECORDS}.{key.hex()[:32]}"


def news_of(fleet: bytes, sealed: bytes, now: float) -> tuple[Told, News | None]:
    """What was told; None for news of a kind that is not known here. Raises WireError if it is forged."""
    told = _opened(fleet, NEWS, sealed, Told, now)
    try:
        return told, msgspec.msgpack.decode(told.news, type=News)
    except msgspec.ValidationError:
        return told, None


def _opened(fleet: bytes, place: str, sealed: bytes, kind: type[Dated], now: float) -> Dated:
    """What was sealed for this place a moment ago. Raises WireError."""
    body = unseal(fleet, place, sealed)
    try:
        value = msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise WireError(f"What came for {place} cannot be read: {error}.") from error
    if not is_fresh(value.at, now):
        off = abs(now - value.at)
        raise WireError(f"The time of what came for {place} is {off:.0f} s off: the machines' clocks must agree.")
    return value
