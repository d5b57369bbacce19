"""Answers that are kept while they are streamed, and go on at another coordinator."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from kit.babbler import Babbler
from kit.runner import run, run_leaping
from kit.scripted import CONTEXT, TEMPLATE, Bytes
from kit.shelves import MemoryShelf
from kit.waiting import until
from potluck.coordinator.generation.job import Delta, Scored
from potluck.coordinator.http import keeping
from potluck.coordinator.http.auth import Caller
from potluck.coordinator.http.crowd import Crowd
from potluck.coordinator.http.doors.doors import Doors
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.event_ids import EventId, Numbering
from potluck.coordinator.http.keeping import AnswerKeeper, Resuming
from potluck.coordinator.http.kept_answers import KeptAnswer, Seal, Told
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.text.encoder import PlainEncoder
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import PotluckError
from potluck.local import HANG_S

CHAT, COMPLETION, RESPONSES, MESSAGES = keeping.PATHS
KEY = "pk-secret"
FLEET = ("http://one:8470", "http://two:8470")
QUESTION = [{"role": "user", "content": "hi"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"enum": ["a", "b"]}}, "required": ["at"]},
    },
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": TOOL["function"]["parameters"]}}

Event = tuple[str, str]
"""The id of an event, and what else it says."""


class Coordinator:
    """One of several coordinators that share a shelf."""

    def __init__(self, shelf: MemoryShelf | None, babbler: Babbler | None = None, digest: str = "d") -> None:
        self.babbler = babbler or Babbler()
        service = Service(
            self.babbler.answer,
            Bytes(),
            PlainEncoder(Bytes(), ChatTemplate(TEMPLATE)),
            "tiny",
            CONTEXT,
            1,
            embedded=256,
            digest=digest,
        )
        kept = [Middleware(Resuming, shelf=shelf, fleet=lambda: FLEET)] if shelf is not None else []
        self.app = Starlette(
            routes=routes_of(OpenAI(Models(service)), Doors(Models(service))),
            middleware=[*kept, Middleware(Crowd)],
            exception_handlers={PotluckError: error_response},
        )

    async def ask(
        self, path: str, body: Any, last: str = "", key: str = KEY, account: str = "ann", **headers: str
    ) -> httpx.Response:
        given = {"Authorization": f"Bearer {key}", **headers, **({"Last-Event-ID": last} if last else {})}
        async with _client(_of_account(self.app, Caller(account, anonymous=not account))) as http:
            return await http.post(path, json=body, headers=given)

    async def stream(self, path: str, body: Any, last: str = "") -> list[Event]:
        reply = await self.ask(path, body, last)
        assert reply.status_code == 200, reply.text
        return events(reply.text)


@asynccontextmanager
async def _client(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://potluck") as one:
        yield one


def _of_account(app: ASGIApp, caller: Caller) -> ASGIApp:
    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = caller
        await app(scope, receive, send)

    return told


def events(text: str) -> list[Event]:
    """The events but for comments."""
    told = []
    for event in text.split("\n\n")[:-1]:
        first, _, rest = event.partition("\n")
        if first.startswith("id: "):
            told.append((first.removeprefix("id: "), rest))
        elif not event.startswith(":"):
            told.append(("", event))
    return told


def kept(last: str, shelf: MemoryShelf) -> KeptAnswer:
    return KeptAnswer(shelf, Seal(EventId.parse(last).secret, KEY))


def by_choice(told: Sequence[Event]) -> dict[int, list[str]]:
    """What the events say, by the choice that they belong to; -1 for the last ones."""
    parts: dict[int, list[str]] = {}
    for _, event in told:
        try:
            choices = json.loads(event.partition("data: ")[2]).get("choices", [])
        except ValueError:  # the end mark
            choices = []
        parts.setdefault(choices[0]["index"] if choices else -1, []).append(event)
    return parts


ASKED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": QUESTION, "max_tokens": 12}),
    (CHAT, {"messages": QUESTION, "max_tokens": 12, "stream_options": {"include_usage": True}, "temperature": 0}),
    (CHAT, {"messages": QUESTION, "max_tokens": 9, "n": 3, "seed": -5, "stream_options": {"include_usage": True}}),
    (CHAT, {"messages": QUESTION, "max_tokens": 9, "logprobs": True, "top_logprobs": 3, "repetition_penalty": 1.3}),
    (CHAT, {"messages": QUESTION, "tools": [TOOL], "tool_choice": "required", "n": 2}),
    (CHAT, {"messages": QUESTION, "response_format": SCHEMA}),
    (CHAT, {"messages": QUESTION, "max_tokens": 60, "stop": ["e", "zz"], "min_tokens": 6}),
    (COMPLETION, {"prompt": ["hi", "ho"], "max_tokens": 8, "logprobs": 2}),
    (COMPLETION, {"prompt": "hi", "max_tokens": 8, "echo": True}),
    (RESPONSES, {"input": "hi", "max_output_tokens": 10}),
    (
        RESPONSES,
        {
            "input": "hi",
            "tools": [{"type": "function", **TOOL["function"]}],
            "tool_choice": "required",
            "max_output_tokens": 60,
        },
    ),
    (MESSAGES, {"messages": QUESTION, "max_tokens": 10}),
    (
        MESSAGES,
        {
            "messages": QUESTION,
            "max_tokens": 60,
            "tools": [{"name": "look", "input_schema": TOOL["function"]["parameters"]}],
            "tool_choice": {"type": "any"},
        },
    ),
]


@pytest.mark.parametrize(("path", "body"), ASKED, ids=[f"{path} {','.join(body)}" for path, body in ASKED])
def test_the_rest_is_that_of_the_unbroken_answer(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of it the client has, and however much of it is kept."""

    async def test() -> None:
        shelf = MemoryShelf()
        asked = {"model": "tiny", "stream": True, **({} if "input" in body else {"max_tokens": 60}), **body}
        with monkeypatch.context() as at_once:
            at_once.setattr(keeping, "_PAUSE_S", 0.0)  # so that an answer is kept that ends at once
            whole = await Coordinator(shelf).stream(path, asked)
            told = await kept_whole(whole[0][0], shelf)
        assert all(one for one, _ in whole)
        assert len({one for one, _ in whole}) == len(whole)
        for has in {1, 2, 5, len(whole) // 2, len(whole) - 1, len(whole)}:
            parts = by_choice(whole[:has])
            rest = {choice: said[len(parts.get(choice, [])) :] for choice, said in by_choice(whole).items()}
            for known in (0, 3, 1000):
                last = whole[has - 1][0]
                await kept(last, shelf).keep(Told(0, tuple(tokens[:known] for tokens in told.tokens)))
                again = await Coordinator(shelf).stream(path, {} if has % 2 else asked, last)
                assert by_choice(again) == {choice: said for choice, said in rest.items() if said}
                if again:
                    assert again[-1][0] == whole[-1][0]

    run(test())


def writing() -> list[asyncio.Task[Any]]:
    """The tasks in which answers are written down."""
    return [one for one in asyncio.all_tasks() if "_write_on" in str(one.get_coro())]


async def kept_whole(last: str, shelf: MemoryShelf) -> Told:
    """The tokens of an answer whose stream is over, once all of them are kept."""
    await until(lambda: not writing())
    told = await kept(last, shelf).told()
    assert told is not None
    return told


def test_it_can_break_off_again_and_again() -> None:
    async def test() -> None:
        shelf, asked = MemoryShelf(), {"messages": QUESTION, "stream": True, "max_tokens": 20, "ignore_eos": True}
        whole = list[Event]()
        last, turns = "", 0
        while not whole or "[DONE]" not in whole[-1][1] or "error" in whole[-2][1]:
            told = await Coordinator(shelf, Babbler(lasts=3)).stream(CHAT, asked, last)
            while told and not told[-1][0]:  # the error, and the end mark behind it
                assert "[DONE]" in told[-1][1] or '"code":"unavailable"' in told[-1][1]
                told.pop()
            whole += told
            last, turns = whole[-1][0], turns + 1
        assert turns == 7
        answer = await kept(last, shelf).told()
        assert answer is not None
        assert answer.turn == turns - 1
        [tokens] = answer.tokens
        assert len(tokens) == 20

    run(test())


QUIET: dict[str, Any] = {"messages": QUESTION, "stream": True, "max_tokens": 6}


def test_without_a_shelf_nothing_changes() -> None:
    async def test() -> None:
        alone, last = Coordinator(None), "AAAAAAAAAAAAAAAAAAAAAA.1"
        for path, fields in ASKED[:3]:
            told = await alone.stream(path, {"stream": True, **fields}, last)
            assert not any(one for one, _ in told)
        assert [job.params.seed for job in alone.babbler.jobs[:2]] == [None, None]
        assert keeping.FLEET not in (await alone.ask(CHAT, QUIET, "garbage")).headers

    run(test())


def test_streams_name_the_fleet_and_whole_answers_are_not_kept() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        one = Coordinator(shelf)
        assert (await one.ask(CHAT, QUIET)).headers[keeping.FLEET] == ", ".join(FLEET)
        shelf = MemoryShelf()
        whole = await Coordinator(shelf).ask(CHAT, {**QUIET, "stream": False})
        assert whole.status_code == 200
        assert keeping.FLEET not in whole.headers
        assert not shelf

    run(test())


def test_of_an_answer_that_ends_at_once_only_what_was_asked_for_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_PAUSE_S", HANG_S)  # any machine ends it within this time

    async def test() -> None:
        shelf = MemoryShelf()
        whole = await Coordinator(shelf).stream(CHAT, QUIET)
        await until(lambda: not writing())
        assert [name.partition(".")[2] for name in shelf] == ["ask"]
        assert await Coordinator(shelf).stream(CHAT, {}, whole[2][0]) == whole[3:]

    run(test())


def test_what_is_kept_says_nothing_without_its_secret_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_PAUSE_S", 0.0)

    async def test() -> None:
        shelf = MemoryShelf()
        question = [{"role": "user", "content": "a very private question"}]
        told = await Coordinator(shelf).stream(CHAT, {**QUIET, "messages": question})
        secret = told[0][0].partition(".")[0]
        await until(lambda: not writing())
        assert len(shelf) == 2
        for name, value in shelf.items():
            assert set(name) <= set("0123456789abcdef.asktold")
            assert secret not in name
            assert b"private" not in value
            assert b"ann" not in value

    run(test())


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"last": "garbage"}, 400, None),
        ({"last": "AAAAAAAAAAAAAAAAAAAAAA.x"}, 400, None),
        ({"last": "AAAAAAAAAAAAAAAAAAAAAA.1"}, 404, "answer_not_kept"),
        ({"choices": ",1"}, 400, None),
        ({"key": "pk-other"}, 404, "answer_not_kept"),
        ({"key": ""}, 404, "answer_not_kept"),
        ({"account": "bob"}, 404, "answer_not_kept"),
        ({"path": COMPLETION}, 404, "answer_not_kept"),
        ({"path": MESSAGES}, 404, None),
        ({"digest": "e"}, 409, "model_changed"),
        ({"away": True}, 503, "unavailable"),
        ({"expired": True}, 404, "answer_not_kept"),
    ],
)
def test_who_may_not_go_on_is_told_why(changed: dict[str, Any], status: int, code: str | None) -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        told = await Coordinator(shelf).stream(CHAT, QUIET)
        last = changed.get("last", told[3][0] + changed.get("choices", ""))
        shelf.away = changed.get("away", False)
        if changed.get("expired"):
            shelf.clear()
        other = Coordinator(shelf, digest=changed.get("digest", "d"))
        who = {name: changed[name] for name in ("key", "account") if name in changed}
        reply = await other.ask(changed.get("path", CHAT), {}, last, **who)
        assert reply.status_code == status
        error = reply.json()["error"]
        assert error.get("code") == code
        assert error["message"].endswith(".")
        assert not other.babbler.jobs

    run(test())


def test_strangers_have_only_the_secret() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        reply = await Coordinator(shelf).ask(CHAT, QUIET, account="", key="EMPTY")
        whole = events(reply.text)
        again = await Coordinator(shelf).ask(CHAT, {}, whole[2][0], account="", key="sk-any")
        assert events(again.text) == whole[3:]

    run(test())


def test_a_stream_is_not_kept_while_the_store_is_away(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        shelf.away = True
        one = Coordinator(shelf)
        for _ in range(3):
            told = await one.stream(CHAT, QUIET)
            assert not any(identity for identity, _ in told)
            assert told[-1][1] == "data: [DONE]"
        shelf.away = False
        assert (await one.stream(CHAT, QUIET))[0][0]

    run(test())
    assert [record.message for record in caplog.records if "store is away" in record.message] == [
        "Answers are not kept now, because the fleet's store is away: The store is away."
    ]


def test_what_is_too_large_is_not_kept() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        noise = base64.b64encode(random.Random(0).randbytes(1_300_000)).decode()
        told = await Coordinator(shelf).stream(CHAT, {**QUIET, "metadata": {"noise": noise}})
        assert not any(identity for identity, _ in told)
        assert not shelf

    run(test())


def test_streams_of_very_many_choices_are_not_kept() -> None:
    """Each of their events would have a very long id."""

    async def test() -> None:
        shelf = MemoryShelf()
        asked = {"prompt": ["a"] * 65, "max_tokens": 1, "stream": True}
        assert not any(identity for identity, _ in await Coordinator(shelf).stream(COMPLETION, asked))
        assert not shelf

    run(test())


def test_a_compressed_body_goes_on_and_so_does_a_long_one() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        asked = {**QUIET, "metadata": {"nothing": "x" * 300_000}}
        body, kind = gzip.compress(json.dumps(asked).encode()), {"Content-Encoding": "gzip"}
        one = Coordinator(shelf)
        async with _client(_of_account(one.app, Caller("ann"))) as http:
            reply = await http.post(CHAT, content=body, headers={"Authorization": f"Bearer {KEY}", **kind})
            whole = events(reply.text)
            headers = {"Authorization": f"Bearer {KEY}", "Last-Event-ID": whole[1][0], **kind}
            again = await http.post(CHAT, content=gzip.compress(b"{}"), headers=headers)
            assert events(again.text) == whole[2:]

    run(test())


def test_a_response_goes_on_where_the_one_before_it_is_not_kept() -> None:
    async def test() -> None:
        shelf, one = MemoryShelf(), None
        one = Coordinator(shelf)
        before = (await one.ask(RESPONSES, {"input": "hi", "max_output_tokens": 3})).json()
        asked = {"input": "more", "max_output_tokens": 6, "stream": True, "previous_response_id": before["id"]}
        whole = await one.stream(RESPONSES, asked)
        other = Coordinator(shelf)
        assert await other.stream(RESPONSES, {}, whole[4][0]) == whole[5:]
        assert (await other.ask(RESPONSES, {**asked, "stream": False})).status_code == 404

    run(test())


def test_whoever_made_an_answer_before_writes_it_down_no_more() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        told = await Coordinator(shelf).stream(CHAT, {**QUIET, "max_tokens": 40})
        answer = kept(told[0][0], shelf)
        for turn, tokens in ((3, (1, 2)), (1, (1, 2)), (0, (1, 2))):
            await answer.keep(Told(turn, (tokens,)))
            old = AnswerKeeper(answer, Numbering(EventId.parse(told[0][0]).secret, 1), Told(1, ((),)), {}, set())
            old.begin()
            old.note(0, Delta("a", [Scored(7, None)]))
            await old.broke()
            assert await answer.told() == (Told(turn, ((1, 2),)) if turn else Told(1, ((7,),)))

    run(test())


def test_what_was_asked_for_is_kept_for_as_long_as_its_answer_takes() -> None:
    async def test() -> None:
        shelf = MemoryShelf()
        told = await Coordinator(shelf).stream(CHAT, QUIET)
        answer = kept(told[0][0], shelf)
        name = answer.seal.name("ask")
        keeper = AnswerKeeper(answer, Numbering(EventId.parse(told[0][0]).secret, 1), Told(0, ((),)), {}, set())
        keeper.begin()
        shelf.puts.clear()
        await until(lambda: name in shelf.puts)
        keeper.end()

    run_leaping(test())
