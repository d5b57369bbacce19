"""Answers while they are made: those of several choices merged into one stream, and sent as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import msgspec
from starlette.responses import Response

from potluck.coordinator.generation.job import Delta
from potluck.coordinator.http.errors import error_json, unavailable
from potluck.coordinator.http.replies import Form, Json, Logprobs, Usage, progress_json
from potluck.errors import PotluckError, RequestError, Unavailable

log = logging.getLogger(__name__)

_MOST_LOGPROBS = 32 << 20
"""The most bytes of log-probabilities that are held for an answer that is not streamed."""

Numbered = tuple[int, Delta]


async def merge(answers: Sequence[AsyncGenerator[Delta, None]]) -> AsyncGenerator[Numbered, None]:
    """The deltas of all answers as they come, each with the number of the answer. Closing this closes them all."""
    queue: asyncio.Queue[Numbered | None] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []
    try:
        for number, answer in enumerate(answers):
            tasks.append(asyncio.create_task(_pour(number, answer, queue)))
            await asyncio.sleep(0)  # one after the other: a grammar or a long prompt takes a while to begin with
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
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


async def _pour(number: int, answer: AsyncGenerator[Delta, None], queue: asyncio.Queue[Numbered | None]) -> None:
    try:
        async with aclosing(answer):
            async for delta in answer:
                queue.put_nowait((number, delta))
    finally:
        asyncio.get_running_loop().call_soon(queue.put_nowait, None)  # once this task is done


async def whole(form: Form, deltas: AsyncGenerator[Numbered, None], choices: int, usage: Usage) -> Response:
    """All choices. If answers broke off, the error includes what there was of them."""
    answers: list[list[Delta]] = [[] for _ in range(choices)]
    logprobs = [Logprobs() for _ in range(choices)]
    held, broken = 0, None
    try:
        async with aclosing(deltas):
            async for number, delta in deltas:
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
        return unavailable(broken, {"choices": made})
    body = msgspec.json.encode({**form.head(chunk=False), "choices": made, **_told(usage)})
    return Response(body, media_type="application/json")


async def events(
    form: Form, first: Numbered, deltas: AsyncGenerator[Numbered, None], choices: int, usage: Usage, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The server-sent events. A failure after the first token is sent in the stream, where no status can be."""
    head = form.head(chunk=True)
    extra: Json = {"usage": None} if include_usage else {}
    item: Numbered | None = first
    try:
        async with aclosing(deltas):
            for number in range(choices):
                for choice in form.opening(number):
                    yield _event({**head, "choices": [choice], **extra})
            while item is not None:
                number, delta = item
                usage.count(delta)
                progress = {"prompt_progress": progress_json(delta.progress)} if delta.progress else {}
                yield _event({**head, "choices": [form.chunk(number, delta)], **extra, **progress})
                item = await anext(deltas, None)
        if include_usage:
            yield _event({**head, "choices": [], **_told(usage)})
    except PotluckError as error:
        log.warning("An answer broke off: %s", error)
        yield _event(error_json(error))
    yield b"data: [DONE]\n\n"


def _told(usage: Usage) -> Json:
    """The fields that end an answer, streamed or not."""
    return {"usage": usage.json(), "sessions": usage.sessions}


def _event(body: Json) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"
