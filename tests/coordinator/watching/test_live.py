"""One look for all who listen, and none where nobody does."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from kit.runner import run
from potluck.coordinator.event_stream import EventStream
from potluck.coordinator.http.auth import Caller
from potluck.coordinator.http.pool import asker_of
from potluck.coordinator.watching import live as module
from potluck.coordinator.watching.live import Live
from potluck.errors import RequestError
from potluck.local import HANG_S


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.001)


class Told:
    def __init__(self) -> None:
        self.text, self.looks = b"1", 0

    def __call__(self) -> bytes:
        self.looks += 1
        return self.text


async def first_other_than(events: AsyncGenerator[bytes, None], known: bytes) -> bytes:
    async for event in events:
        if event != known:
            return event
    raise AssertionError("It ended.")


async def ended() -> None:
    """The one who looks sees that nobody listens any more."""
    [looking] = asyncio.all_tasks() - {asyncio.current_task()}
    await looking


def test_all_hear_what_is_new_and_looking_ends_with_them() -> None:
    async def test() -> None:
        told = Told()
        live = Live([told])
        async with aclosing(live.listen()) as one, aclosing(live.listen()) as other:
            assert await anext(one) == await anext(other) == b"data: 1\n\n"
            assert told.looks == 1
            told.text = b"2"
            assert await first_other_than(one, b"data: 1\n\n") == b"data: 2\n\n"
            assert await first_other_than(other, b"data: 1\n\n") == b"data: 2\n\n"
        await ended()
        told.text = b"3"
        async with aclosing(live.listen()) as late:
            assert await anext(late) == b"data: 3\n\n"
        await ended()

    run(test())


def test_those_who_come_are_greeted() -> None:
    async def test() -> None:
        told = Told()
        live = Live([told], lambda news: b"hello " + news)
        async with aclosing(live.listen()) as one:
            assert await anext(one) == b"data: hello 1\n\n"
            async with aclosing(live.listen()) as other:
                assert await anext(other) == b"data: hello 1\n\n"
            told.text = b"2"
            assert await anext(one) == b"data: 2\n\n"
        await ended()

    run(test())


def test_several_models_are_told_together_whichever_of_them_changes() -> None:
    async def test() -> None:
        one, other = Told(), Told()
        async with aclosing(Live([one, other]).listen()) as events:
            first = await anext(events)
            assert first == b'data: {"models":[1,1]}\n\n'
            other.text = b"2"
            second = await first_other_than(events, first)
            assert second == b'data: {"models":[1,2]}\n\n'
            one.text = b"3"
            assert await first_other_than(events, second) == b'data: {"models":[3,2]}\n\n'
        await ended()

    run(test())


def test_what_does_not_change_is_told_again_only_now_and_then() -> None:
    async def test() -> None:
        told = Told()
        async with aclosing(Live([told]).listen()) as events:
            first = await anext(events)
            assert await anext(events) == first
        assert told.looks == 1 + module._KEEP_LOOKS
        await ended()

    run(test())


def test_listeners_go_when_the_coordinator_does() -> None:
    async def test() -> None:
        live = Live([Told()])
        heard = []

        async def hear() -> None:
            async for event in live.listen():
                heard.append(event)
                live.stop()

        async with asyncio.timeout(HANG_S):
            await hear()
        assert heard == [b"data: 1\n\n"]
        await ended()

    run(test())


def request_of(name: str) -> Request:
    """The request of an account, or of a stranger with an address."""
    caller = Caller("", anonymous=True) if name.startswith("10.") else Caller(name)
    return Request({"type": "http", "headers": [], "client": (name, 1), "state": {"caller": caller}})


def test_one_caller_has_only_a_few_listeners() -> None:
    async def test() -> None:
        live = Live([Told()], whose=asker_of)
        replies = [await live.events(request_of("ann")) for _ in range(module._MOST_OF_ONE)]
        with pytest.raises(RequestError, match="of yours") as caught:
            await live.events(request_of("ann"))
        assert caught.value.status == 429
        replies.append(await live.events(request_of("ben")))
        await closed(replies.pop(0))
        replies.append(await live.events(request_of("ann")))
        for reply in replies:
            await closed(reply)
        assert not live._places

    run(test())


async def closed(reply: Response) -> None:
    """The client hangs up before it has read anything."""
    assert isinstance(reply, EventStream)
    sent = asyncio.Event()

    async def receive() -> dict[str, str]:
        await sent.wait()
        return {"type": "http.disconnect"}

    async def send(_: object) -> None:
        sent.set()
        await asyncio.Event().wait()

    await reply({"type": "http", "asgi": {"spec_version": "2.0"}}, receive, send)


def test_a_listener_that_never_reads_is_not_told_more() -> None:
    """The server waits for the first event to be read, and meanwhile none is made for this listener."""

    async def test() -> None:
        told, blocked, asked = Told(), asyncio.Event(), list[object]()
        live = Live([told])
        reply = await live.events(request_of("ann"))

        async def send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.body":
                asked.append(message)
                await blocked.wait()

        task = asyncio.create_task(reply({"type": "http", "asgi": {"spec_version": "2.4"}}, never, send))
        async with asyncio.timeout(HANG_S):
            while told.looks < 20:
                told.text = str(told.looks).encode()
                await asyncio.sleep(0)
        assert len(asked) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ended()

    run(test())


async def never() -> dict[str, str]:
    await asyncio.Event().wait()
    raise AssertionError


def test_no_more_listeners_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_LISTENERS", 1)

    async def test() -> None:
        live = Live([Told()], whose=asker_of)
        reply = await live.events(request_of("ann"))
        with pytest.raises(RequestError, match="Too many"):
            await live.events(request_of("ben"))
        await closed(reply)
        await closed(await live.events(request_of("ben")))

    run(test())


def test_strangers_have_only_half_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_LISTENERS", 4)
    monkeypatch.setattr(module, "_MOST_STRANGERS", 2)

    async def test() -> None:
        live = Live([Told()], whose=asker_of)
        replies = [await live.events(request_of(name)) for name in ("10.0.0.1", "10.0.0.2")]
        with pytest.raises(RequestError, match="Too many") as caught:
            await live.events(request_of("10.0.0.3"))
        assert caught.value.status == 429
        replies += [await live.events(request_of(name)) for name in ("ann", "ben")]
        with pytest.raises(RequestError, match="Too many"):
            await live.events(request_of("cem"))
        await closed(replies.pop(0))
        replies.append(await live.events(request_of("10.0.0.3")))
        assert len(replies) == 4
        for reply in replies:
            await closed(reply)
        assert not live._places

    run(test())
