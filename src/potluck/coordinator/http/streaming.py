"""Answers while they are made: those of several choices merged into one stream, and sent as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from potluck.coordinator.generation.job import Delta
from potluck.coordinator.http.errors import error_json, error_reply, unfinished_json
from potluck.coordinator.http.replies import Form, Json, Logprobs, Usage, progress_json
from potluck.errors import PotluckError, RequestError, Unavailable

log = logging.getLogger(__name__)

_MOST_LOGPROBS = 32 << 20
"""The most bytes of log-probabilities that are held for an answer that is not streamed."""

SILENCE_S = 5.0
"""Seconds of silence after which a stream says that it is alive. Proxies close silent ones after a minute, or ten
seconds.
"""
_REFUSAL_S = 0.5
"""Seconds in which a refusal may come as an HTTP error, before the head of a stream is sent. The swarm refuses at once
whom it cannot serve; whoever is admitted may wait far longer for the first token.
"""

ALIVE = b": waiting\n\n"
"""A comment, which clients skip."""

MOST_AT_ONCE = 64
"""The answers of one request that are made at the same time. The others wait for them, without a place in the queue."""

Numbered = tuple[int, Delta]
_END: Numbered = (-1, Delta())
"""Stands for the end of an answer."""


class Door(Protocol):
    """Tells an answer in the form of one API. It is given that of OpenAI's older ones, as JSON."""

    def chunk(self, chunk: Json) -> bytes:
        """The server-sent events of a chunk."""

    def head(self) -> bytes:
        """The first events, until they have been told."""

    def alive(self) -> bytes:
        """What says that the answer is still being made. It is no part of it."""

    def end(self) -> bytes:
        """The last events of a complete answer."""

    def broken(self, error: PotluckError) -> bytes:
        """The last events of an answer that broke off."""

    def whole(self, answer: Json) -> Json:
        """A whole answer, which is not streamed."""

    def broken_off(self, error: PotluckError, made: list[Any]) -> Json:
        """The error for an answer that is not streamed and broke off. made: its choices until then."""


class OpenDoor:
    """The door of OpenAI's older APIs, which changes nothing."""

    def chunk(self, chunk: Json) -> bytes:
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def head(self) -> bytes:
        return b""

    def alive(self) -> bytes:
        return ALIVE

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def broken(self, error: PotluckError) -> bytes:
        return self.chunk(error_json(error)) + self.end()

    def whole(self, answer: Json) -> Json:
        return answer

    def broken_off(self, error: PotluckError, made: list[Any]) -> Json:
        return unfinished_json(error, made)


class Keeper(Protocol):
    """Keeps an answer while it is streamed, so that it can go on if the stream breaks off. headers: of the reply."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def begin(self) -> None:
        """Begin: the stream does."""

    def events(self, choice: int | None, told: bytes) -> bytes:
        """These events as they are to be sent. choice: whose they are; None for those after all choices."""

    def note(self, choice: int, delta: Delta) -> None:
        """Take in what was added to a choice."""

    async def broke(self) -> None:
        """Write down what there is, before the client is told that the answer broke off."""

    def end(self) -> None:
        """End: the stream is over, or never began."""


class Unkept:
    """Keeps nothing."""

    headers: Mapping[str, str] = MappingProxyType({})

    def begin(self) -> None:
        pass

    def events(self, _: int | None, told: bytes) -> bytes:
        return told

    def note(self, choice: int, delta: Delta) -> None:
        pass

    async def broke(self) -> None:
        pass

    def end(self) -> None:
        pass


async def merge(
    answers: Sequence[AsyncGenerator[Delta, None]], silence_s: float | None = None
) -> AsyncGenerator[Numbered | None, None]:
    """The deltas of all answers as they come, each with the number of the answer. Closing this closes them all.

    silence_s: seconds of silence after which None comes, for the first time after `_REFUSAL_S` at most; None: never.
    """
    patience_s = None if silence_s is None else min(silence_s, _REFUSAL_S)
    queue: asyncio.Queue[Numbered] = asyncio.Queue()
    room = asyncio.Semaphore(MOST_AT_ONCE)
    tasks: list[asyncio.Task[None]] = []
    try:
        for number, answer in enumerate(answers):
            tasks.append(asyncio.create_task(_pour(number, answer, queue, room)))
            await asyncio.sleep(0)  # one after the other: a grammar or a long prompt takes a while to begin with
        running = len(tasks)
        while running:
            item = await _heard(queue, patience_s)
            patience_s = silence_s
            if item is _END:
                running -= 1
                for task in tasks:
                    if task.done():
                        task.result()  # raises what ended it
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _heard(queue: asyncio.Queue[Numbered], patience_s: float | None) -> Numbered | None:
    """The next item; None if none comes in so many seconds."""
    try:
        async with asyncio.timeout(patience_s):
            return await queue.get()
    except TimeoutError:
        return None


async def _pour(
    number: int, answer: AsyncGenerator[Delta, None], queue: asyncio.Queue[Numbered], room: asyncio.Semaphore
) -> None:
    try:
        async with room, aclosing(answer):
            async for delta in answer:
                queue.put_nowait((number, delta))
    finally:
        asyncio.get_running_loop().call_soon(queue.put_nowait, _END)  # once this task is done


async def whole(
    form: Form, deltas: AsyncGenerator[Numbered | None, None], choices: int, usage: Usage, door: Door
) -> Response:
    """All choices. If answers broke off, the error includes what there was of them."""
    answers: list[list[Delta]] = [[] for _ in range(choices)]
    logprobs = [Logprobs() for _ in range(choices)]
    held, broken = 0, None
    try:
        async with aclosing(deltas):
            async for item in deltas:
                if item is None:
                    continue
                number, delta = item
                held += logprobs[number].add(form.logprobs_of(number, delta.tokens))
                if held > _MOST_LOGPROBS:
                    raise RequestError("The log-probabilities are too many for one answer: ask for a stream of them.")
                answers[number].append(replace(delta, tokens=[]))
                usage.count(delta)
    except Unavailable as error:
        if not any(answers):
            raise
        log.warning("An answer broke off: %s", error)
        broken = error
    made = [
        {**form.choice(number, answer), "logprobs": logprobs[number].json()}
        for number, answer in enumerate(answers)
        if answer
    ]
    if broken is not None:
        return error_reply(broken, door.broken_off(broken, made))
    body = msgspec.json.encode(door.whole({**form.head(chunk=False), "choices": made, **_told(usage)}))
    return Response(body, media_type="application/json")


async def events(
    form: Form,
    first: Numbered | None,
    deltas: AsyncGenerator[Numbered | None, None],
    choices: int,
    usage: Usage,
    include_usage: bool,
    door: Door,
    keeper: Keeper,
) -> AsyncGenerator[bytes, None]:
    """The server-sent events. A failure from now on is sent in the stream, where no status can be.

    first: the first delta; None, as later on, if the answer is silent. keeper: is not told of progress, which is of use
    only to whoever waits for it now.
    """
    keeper.begin()
    head = form.head(chunk=True)
    extra: Json = {"usage": None} if include_usage else {}
    opening = [choice for number in range(choices) for choice in form.opening(number)]
    item = first
    try:
        async with aclosing(deltas):
            while True:
                if item is None:
                    yield keeper.events(0, door.head()) + door.alive()
                else:
                    for choice in opening:  # with the first delta, so that who times the first event times a token
                        told = door.chunk({**head, "choices": [choice], **extra})
                        yield keeper.events(choice["index"], told)
                    opening = []
                    number, delta = item
                    usage.count(delta)
                    keeper.note(number, delta)
                    chunk = {**head, "choices": [form.chunk(number, delta)], **extra}
                    if delta.progress:
                        yield door.chunk({**chunk, "prompt_progress": progress_json(delta.progress)})
                    else:
                        yield keeper.events(number, door.chunk(chunk))
                try:
                    item = await anext(deltas)
                except StopAsyncIteration:
                    break
        if include_usage:
            yield keeper.events(None, door.chunk({**head, "choices": [], **_told(usage)}))
        yield keeper.events(None, door.end())
    except PotluckError as error:
        log.warning("An answer broke off: %s", error)
        await keeper.broke()
        yield door.broken(error)


def _told(usage: Usage) -> Json:
    """The fields that end an answer, streamed or not."""
    return {"usage": usage.json(), "sessions": usage.sessions}
