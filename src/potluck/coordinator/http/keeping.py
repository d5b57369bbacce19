"""Keeps answers while they are streamed, and goes on with those that broke off, here or at another coordinator."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.http.auth import bearer
from potluck.coordinator.http.errors import MESSAGES, deny
from potluck.coordinator.http.event_ids import SECRET_BYTES, EventId, Numbering
from potluck.coordinator.http.identities import Identities
from potluck.coordinator.http.inbound import COPY, skip_body
from potluck.coordinator.http.kept_answers import (
    Asked,
    Copy,
    KeptAnswer,
    Seal,
    Shelf,
    Told,
    Watched,
    packed,
    receiving,
    unpacked,
)
from potluck.coordinator.http.streaming import Keeper, Unkept
from potluck.coordinator.members.keys import PREFIX
from potluck.errors import PotluckError, RequestError, Unavailable

FLEET = "Potluck-Fleet"
"""The header that names the coordinators which can go on with an answer."""
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", MESSAGES)
"""The paths of requests for answers."""

_PAUSE_S = 0.2
_BYTES_PER_S = 200_000
"""The tokens of an answer are written again and again: a long answer's more seldom than every `_PAUSE_S`."""
_RENEW_S = 60.0
"""Seconds after which what was asked for is put on the shelf again, where it lies for some minutes only."""
_FLUSH_S = 1.0
_MOST_CHOICES = 64
"""The choices of a stream that is kept. The id of each event has a number for each of them."""
_STATE = "keeping"

Written = set[asyncio.Task[None]]
"""The answers that are written down, whose tasks nothing else may hold when their streams have ended."""


@dataclass(frozen=True)
class Resumed:
    """An answer with which a client wants to go on. seen: the last event that it has."""

    seen: EventId
    asked: Asked
    told: Told

    @property
    def identities(self) -> Identities:
        return Identities(self.asked.seed, self.asked.created)

    def jobs(self, jobs: Sequence[Job], digest: str) -> list[Job]:
        """The jobs of the same request, made to go on. Raises RequestError when the model is another, or was read in
        another way.
        """
        if digest != self.asked.digest or len(jobs) != len(self.asked.seeds):
            message = "The model has changed since this answer began: ask again, without Last-Event-ID."
            raise RequestError(message, status=409, code="model_changed")
        given = self.told.tokens or ((),) * len(jobs)
        return [
            replace(job, params=structs.replace(job.params, seed=seed), given=tokens)
            for job, seed, tokens in zip(jobs, self.asked.seeds, given, strict=True)
        ]


@dataclass
class Keeping:
    """What keeps the answer to one request. copy: of its body. resumed: the answer that is to go on, if one is.

    before: the response that it follows, and the messages before that.
    """

    shelf: Shelf
    written: Written
    fleet: Callable[[], Sequence[str]]
    key: str
    path: str
    account: str
    copy: Copy
    resumed: Resumed | None = None
    before: tuple[bytes, bytes] | None = None

    def forget(self) -> None:
        """Hold nothing of a request whose answer is not streamed, and so not kept."""
        self.copy.take()
        self.before = None

    @property
    def followed(self) -> tuple[bytes, bytes] | None:
        """What the answer follows that goes on, as `before` has it."""
        before = self.resumed.asked.before if self.resumed is not None else None
        return None if before is None else (unpacked(before[0]), unpacked(before[1]))

    def prepare(self, jobs: Sequence[Job], identities: Identities, digest: str) -> tuple[list[Job], Began]:
        """The jobs as they are to be done, so that they can be done again, and what begins to keep their answer.

        digest: the model's. Raises RequestError as `Resumed.jobs` does.
        """
        resumed, self.resumed = self.resumed, None  # what is kept of it may be large
        if resumed is not None:
            return resumed.jobs(jobs, digest), self._go_on(resumed)
        seeds = [_seed(job.params.seed) for job in jobs]
        jobs = [
            replace(job, params=structs.replace(job.params, seed=seed)) for job, seed in zip(jobs, seeds, strict=True)
        ]
        return jobs, self._begin(tuple(seeds), identities, digest)

    async def _go_on(self, resumed: Resumed) -> Keeper:
        answer = KeptAnswer(self.shelf, Seal(resumed.seen.secret, self.key))
        numbering = Numbering(resumed.seen.secret, len(resumed.asked.seeds), resumed.seen)
        tokens = resumed.told.tokens or ((),) * len(resumed.asked.seeds)
        return AnswerKeeper(answer, numbering, Told(resumed.told.turn + 1, tokens), self._headers, self.written)

    async def _begin(self, seeds: tuple[int, ...], identities: Identities, digest: str) -> Keeper:
        """Keep what was asked for. Its answer is not kept if that cannot be."""
        body, length = self.copy.take(), self.copy.length
        if body is None or len(seeds) > _MOST_CHOICES:
            return Unkept()
        secret = secrets.token_bytes(SECRET_BYTES)
        answer = KeptAnswer(self.shelf, Seal(secret, self.key))
        seed, created = identities.seed, identities.created
        before = None if self.before is None else (packed(self.before[0]), packed(self.before[1]))
        self.before = None
        try:
            size = await answer.keep(Asked(self.path, body, length, self.account, digest, seeds, seed, created, before))
        except Unavailable:  # the shelf has logged it
            return Unkept()
        if size is None:
            return Unkept()
        numbering, told = Numbering(secret, len(seeds)), Told(0, ((),) * len(seeds))
        return AnswerKeeper(answer, numbering, told, self._headers, self.written)

    @property
    def _headers(self) -> dict[str, str]:
        urls = ", ".join(self.fleet())
        return {FLEET: urls} if urls else {}


Began = Coroutine[Any, Any, Keeper]


async def no_keeper() -> Keeper:
    """What keeps nothing of an answer."""
    return Unkept()


class AnswerKeeper:
    """Keeps the answer to one request while it is streamed, in a task of its own. told: what it begins with."""

    def __init__(
        self, answer: KeptAnswer, numbering: Numbering, told: Told, headers: Mapping[str, str], written: Written
    ) -> None:
        self.headers = headers
        self._answer = answer
        self._numbering = numbering
        self._turn = told.turn
        self._tokens = [list(tokens) for tokens in told.tokens]
        self._repeated = [len(tokens) for tokens in told.tokens]
        """How many tokens come once more, by the choice."""
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_broken = False
        self._renewed = _now()
        self._written = written
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        if self._turn:
            self._news.set()  # whoever made the answer before must learn that it goes on here
        self._task = asyncio.create_task(self._write_on())
        self._written.add(self._task)
        self._task.add_done_callback(self._written.discard)

    def events(self, choice: int | None, told: bytes) -> bytes:
        return self._numbering.numbered(choice, told)

    def note(self, choice: int, delta: Delta) -> None:
        if not delta.generated:
            return
        if self._repeated[choice]:
            self._repeated[choice] -= 1
            return
        self._tokens[choice] += [scored.token for scored in delta.tokens]
        self._news.set()

    async def broke(self) -> None:
        self._is_broken = True
        self.end()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_FLUSH_S)

    def end(self) -> None:
        self._ended.set()
        self._news.set()

    async def _write_on(self) -> None:
        if not self._turn and await self._ends_within(_PAUSE_S) and not self._is_broken:
            return  # whoever missed its end can have it made anew in as short a time
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RENEW_S):
                    await self._news.wait()
            self._news.clear()
            is_last = self._ended.is_set()
            try:
                size = await self._write()
            except Unavailable:  # the shelf has logged it
                size = 0
            if size is None or is_last:
                return
            await self._ends_within(max(_PAUSE_S, size / _BYTES_PER_S))

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self._ended.is_set()

    async def _write(self) -> int | None:
        """Write down the tokens so far, unless more are kept. Returns their bytes; None if they are too many, or if
        another coordinator goes on with the answer.
        """
        if _now() - self._renewed > _RENEW_S:
            await self._answer.renew()
            self._renewed = _now()
        stored = await self._answer.told()
        if stored is not None and stored.turn > self._turn:
            return None
        if stored is not None and stored.turn == self._turn and _length(stored.tokens) > _length(self._tokens):
            return 0  # a client that went on twice has this answer from two coordinators
        return await self._answer.keep(Told(self._turn, tuple(map(tuple, self._tokens))))


class Resuming:
    """ASGI middleware behind `Auth`: lets the answers to requests be kept, and finds those that are to go on.

    A request with the Last-Event-ID of a kept answer goes on as if it had the body of the one that began it. fleet:
    the URLs of the coordinators that share the shelf.
    """

    def __init__(self, app: ASGIApp, shelf: Shelf, fleet: Callable[[], Sequence[str]]) -> None:
        self._app = app
        self._shelf = Watched(shelf)
        self._fleet = fleet
        self._written: Written = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        keeping = self._keeping(request)
        state = scope.setdefault("state", {})
        state[_STATE] = keeping
        if last := request.headers.get("last-event-id"):
            try:
                keeping.resumed = await self._found(request, keeping, last)
            except PotluckError as error:
                await deny(scope, receive, send, error)
                return
            asked = keeping.resumed.asked
            scope, receive = _with_body(scope, asked.length), receiving(asked.body, receive)
            del asked
        else:
            state[COPY] = keeping.copy.add
        await self._app(scope, receive, send)

    def _keeping(self, request: Request) -> Keeping:
        caller, key = getattr(request.state, "caller", None), bearer(request)
        account = caller.account if caller is not None else ""
        key = key if key.startswith(PREFIX) else ""
        return Keeping(self._shelf, self._written, self._fleet, key, request.url.path, account, Copy())

    async def _found(self, request: Request, keeping: Keeping, last: str) -> Resumed:
        """The answer with which the client wants to go on. Its own body, which may be anything, is not looked at."""
        seen = EventId.parse(last)
        await skip_body(request)
        answer = KeptAnswer(keeping.shelf, Seal(seen.secret, keeping.key))
        asked = await answer.asked()
        if asked is None or (asked.path, asked.account) != (keeping.path, keeping.account):
            message = "No answer of yours is kept that has this Last-Event-ID: ask again, without it."
            raise RequestError(message, status=404, code="answer_not_kept")
        if len(seen.counts) != len(asked.seeds):
            raise RequestError("Last-Event-ID has another number of choices than its answer.")
        return Resumed(seen, asked, await answer.told() or Told(0, ()))


def keeping_of(request: HTTPConnection) -> Keeping | None:
    """What keeps the request's answer; None where nothing is kept."""
    return getattr(request.state, _STATE, None)


def identities_of(request: HTTPConnection) -> Identities:
    """The ids of the request's answer, which are those that it had before if it goes on."""
    keeping = keeping_of(request)
    return Identities.fresh() if keeping is None or keeping.resumed is None else keeping.resumed.identities


def _seed(given: int | None) -> int:
    """The seed of a sampler, which a negative one is as well; a new one if none was given."""
    return secrets.randbits(64) if given is None else given % 2**64


def _length(tokens: Sequence[Sequence[int]]) -> int:
    return sum(map(len, tokens))


def _with_body(scope: Scope, length: int) -> Scope:
    """The scope of the request with another body, which has so many bytes."""
    headers = MutableHeaders(raw=[*scope["headers"]])
    for name in ("content-encoding", "transfer-encoding"):
        del headers[name]
    headers["content-length"] = str(length)
    return {**scope, "headers": headers.raw}


def _now() -> float:
    """The loop's clock in seconds."""
    return asyncio.get_running_loop().time()
