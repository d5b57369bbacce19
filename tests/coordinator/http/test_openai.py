import asyncio
import gc
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from kit.newcomer import reception
from kit.runner import run, run_leaping
from kit.scripted import Bytes
from kit.waiting import until
from potluck.coordinator.compose import SwarmService, compose_swarm
from potluck.coordinator.gateway.lobby import new_lobby
from potluck.coordinator.gateway.terms import Terms
from potluck.coordinator.generation.job import Delta, Job, Scored
from potluck.coordinator.generation.reading import Progress
from potluck.coordinator.generation.sampling import SamplingParams
from potluck.coordinator.http import inbound, service, streaming
from potluck.coordinator.http.bodies import Bodies
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.pool import Pool
from potluck.coordinator.http.requests import Common
from potluck.coordinator.http.rota import Asker
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.http.service import Service, claim_of_all
from potluck.coordinator.http.streaming import MOST_AT_ONCE, merge
from potluck.coordinator.sessions.claim import EVERYONE, Claim, Rank
from potluck.coordinator.swarm.events import BecameReady, Joined
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.text.encoder import PlainEncoder
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import Busy, PotluckError, RouteLost, Unavailable
from potluck.planning.cost import Footprint
from potluck.types import Attention, Capacity, EngineKind, Priority, Quantize, RowFormat, Span, Speed
from potluck.wire.messages import Hello, Ready

LAYERS, CONTEXT = 6, 64
DELTAS = (Delta("he", [Scored(104, -0.5)]), Delta("llo", [Scored(108, -0.25)]), Delta(finish="stop"))


Generate = Callable[[Job], AsyncGenerator[Delta, None]]


class Answers:
    """Stands in for `Generation`: it plays a script, notes the jobs, and which answers have been closed."""

    def __init__(self, *script: Delta | Exception | asyncio.Event) -> None:
        self.script = script
        self.jobs: list[Job] = []
        self.open = 0
        self.begun = asyncio.Event()
        self.closed = asyncio.Event()

    async def __call__(self, job: Job) -> AsyncGenerator[Delta, None]:
        self.jobs.append(job)
        self.open += 1
        self.begun.set()
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Delta):
                    yield item
                else:
                    await item.wait()
        finally:
            self.open -= 1
            if not self.open:
                self.closed.set()


played: list[Answers] = []
"""Of the test that runs now."""


def make_swarm(*served: str) -> SwarmService:
    swarm = Swarm("d", Footprint((1,) * LAYERS, 0, 0))
    for span in served:
        swarm.handle(Joined(span, Hello(span, "0.1", "", Span.parse(span), 1 << 40, 1)))
        swarm.handle(BecameReady(span, Ready(Capacity(8, 1000, 512), Speed(0.01, 0.001), "", "")))
    terms = Terms("d", EngineKind.LLAMACPP, Quantize.NONE, Attention.EXACT, RowFormat.F32, CONTEXT)
    return compose_swarm(terms, swarm, new_lobby(reception()), width=4, vocabulary=256)


def make_app(
    generate: Generate | None = None,
    claim: Callable[[Request, Priority], Claim] = claim_of_all,
    embedded: int = 256,
    pool: Pool | None = None,
    aliases: tuple[str, ...] = (),
    template: str | None = None,
) -> Starlette:
    """generate: makes the answers; None: the script that was played last does. embedded: ids of the model itself."""
    service = Service(
        generate or (lambda job: played[-1](job)),
        Bytes(),
        PlainEncoder(Bytes(), ChatTemplate(template)),
        "tiny",
        CONTEXT,
        1,
        claim,
        pool or Pool(),
        embedded=embedded,
        aliases=aliases,
    )
    return Starlette(routes=routes_of(OpenAI(Models(service))), exception_handlers={PotluckError: error_response})


@asynccontextmanager
async def client(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://potluck") as one:
        yield one


@pytest.fixture
def script() -> Iterator[Callable[..., Answers]]:
    """Sets what every answer of the test consists of; afterwards all of them must be closed."""

    def play(*items: Delta | Exception | asyncio.Event) -> Answers:
        played.append(Answers(*items))
        return played[-1]

    yield play
    assert all(answers.open == 0 for answers in played)
    played.clear()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "hi", **fields}


def events(text: str) -> list[Any]:
    """The server-sent events but for the last, which must be the end mark."""
    *lines, end, rest = text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def test_the_model_is_listed() -> None:
    async def test() -> None:
        async with client(make_app()) as http:
            listed = (await http.get("/v1/models")).json()
            assert listed == {"object": "list", "data": [(await http.get("/v1/models/tiny")).json()]}
            about = {"id": "tiny", "object": "model", "created": 1, "owned_by": "potluck"}
            assert listed["data"][0] == {**about, "state": "ready"}
            missing = await http.get("/v1/models/other/one")
            assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")

    run(test())


@pytest.mark.parametrize("named", [{}, {"model": None}, {"model": ""}, {"model": "tiny"}, {"model": "small"}])
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_a_request_may_use_any_name_of_the_model_or_none(
    path: str, named: dict[str, Any], script: Callable[..., Answers]
) -> None:
    async def test() -> None:
        script(*DELTAS)
        asked = {"prompt": "hi"} if path == COMPLETION else {"messages": [{"role": "user", "content": "hi"}]}
        body = {**asked, **named}
        async with client(make_app(aliases=("small", "acme/tiny"))) as http:
            reply = await http.post(path, json=body)
            listed = [each["id"] for each in (await http.get("/v1/models")).json()["data"]]
            alias = (await http.get("/v1/models/acme/tiny")).json()
            wrong = await http.post(path, json={**body, "model": "other"})
        assert (reply.status_code, reply.json()["model"]) == (200, "tiny")
        assert (listed, alias["id"]) == (["tiny", "small", "acme/tiny"], "acme/tiny")
        error = wrong.json()["error"]
        assert (wrong.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
        assert error["message"] == "The model 'other' is not served here; 'tiny', 'small', 'acme/tiny' is."

    run(test())


@pytest.mark.parametrize(
    ("asked", "most"),
    [(None, None), (-1, None), (-2, None), (CONTEXT, None), (10**30, None), (0, 0), (1, 1), ("3", 3), (4.0, 4)],
)
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_an_answer_is_what_is_left_at_most(
    field: str, asked: object, most: int | None, script: Callable[..., Answers]
) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app()) as http:
            reply = await http.post(CHAT, json=chat(**{field: asked}, min_tokens=2))
        assert reply.status_code == 200
        [job] = answers.jobs
        room = CONTEXT - len(job.prompt)
        limit = room if most is None else most
        assert (job.max_tokens, job.min_tokens) == (limit, min(2, limit))

    run(test())


def test_a_completion_is_as_long_as_the_context_allows_at_most(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app()) as http:
            for limit in (-1, CONTEXT, 10**30, 5, None):
                assert (await http.post(COMPLETION, json=completion(max_tokens=limit))).status_code == 200
        assert [job.max_tokens for job in answers.jobs] == [CONTEXT - 2, CONTEXT - 2, CONTEXT - 2, 5, 16]

    run(test())


def test_more_answers_than_are_made_at_once_wait_for_each_other(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        go = asyncio.Event()
        answers = script(go, *DELTAS)
        async with client(make_app()) as http:
            asked = asyncio.create_task(http.post(COMPLETION, json=completion(prompt=["hi"] * 150)))
            await until(lambda: answers.open == MOST_AT_ONCE)
            await asyncio.sleep(0)
            assert len(answers.jobs) == MOST_AT_ONCE
            go.set()
            choices = (await asked).json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(150))
        assert {choice["text"] for choice in choices} == {"hello"}

    run(test())


def test_a_whole_chat(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app()) as http:
            reply = (await http.post(CHAT, json=chat(temperature=0, stop="x", max_tokens=9))).json()
        assert reply["choices"][0]["message"]["content"] == "hello"
        prompt = b"User: hi\n\nAssistant:"
        assert reply["usage"] == {
            "prompt_tokens": len(prompt),
            "completion_tokens": 3,
            "total_tokens": len(prompt) + 3,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "nodes": [],
        }
        [job] = answers.jobs
        assert (bytes(job.prompt), job.max_tokens, job.params) == (prompt, 9, SamplingParams(temperature=0))
        assert job.stops[0] == "x"

    run(test())


def test_a_streamed_chat(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        script(*DELTAS)
        async with client(make_app()) as http:
            reply = await http.post(CHAT, json=chat(stream=True, stream_options={"include_usage": True}))
        assert reply.headers["content-type"].startswith("text/event-stream")
        *chunks, usage = events(reply.text)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "hello"
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
        assert all(chunk["usage"] is None for chunk in chunks)
        assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 3)

    run(test())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_nothing_of_a_body_is_held_while_it_is_answered(
    script: Callable[..., Answers], path: str, stream: bool
) -> None:
    async def test() -> None:
        wait, bodies = asyncio.Event(), Bodies()
        answers = script(wait, *DELTAS)
        app = make_app()

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            with bodies.received(Asker("ann"), scope, receive) as received:
                await app(scope, received, send)

        async with client(counted) as http:
            task = asyncio.create_task(
                http.post(path, json={**(chat() if path == CHAT else completion()), "stream": stream})
            )
            await answers.begun.wait()
            assert not bodies._shares._bodies
            gc.collect()
            assert not [one for one in gc.get_objects() if isinstance(one, Common)]
            wait.set()
            assert (await task).status_code == 200

    run(test())


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_how_far_the_prompt_is_read(script: Callable[..., Answers], path: str) -> None:
    async def test() -> None:
        read = [Delta(generated=0, progress=Progress(10, 4, done, done / 100)) for done in (4, 10)]
        answers = script(*read, *DELTAS)
        body = {**(chat() if path == CHAT else completion()), "stream": True, "return_progress": True}
        async with client(make_app()) as http:
            chunks = events((await http.post(path, json=body)).text)
            await http.post(path, json={**body, "stream": False})
        told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
        assert told == [{"total": 10, "cache": 4, "processed": done, "time_ms": 10 * done} for done in (4, 10)]
        silent = [chunk["choices"][0] for chunk in chunks if "prompt_progress" in chunk]
        assert all(choice.get("delta") == {} or choice.get("text") == "" for choice in silent)
        assert all(choice["index"] == 0 and choice["finish_reason"] is None for choice in silent)
        assert [job.progress for job in answers.jobs] == [True, False]

    run(test())


@pytest.mark.parametrize(
    ("fields", "once"), [({}, False), ({"parallel_tool_calls": False}, True), ({"tool_choice": "none"}, False)]
)
def test_an_answer_with_one_call_at_most_ends_with_it(
    script: Callable[..., Answers], fields: dict[str, Any], once: bool
) -> None:
    async def test() -> None:
        call = '<tool_call>{"name": "rain", "arguments": {"city": "Rome"}}'
        answers = script(Delta(call), Delta(finish="stop"))
        tools = [{"type": "function", "function": {"name": "rain"}}]
        async with client(make_app(template="{{ messages[0].content }}{# tools #}")) as http:
            [choice] = (await http.post(CHAT, json=chat(tools=tools, **fields))).json()["choices"]
        [job] = answers.jobs
        assert "</tool_call>" not in job.stops
        assert (job.watch is not None) is once
        if job.watch is not None:
            is_over = job.watch()
            assert [is_over(text) for text in (call[:-1], call[-1:])] == [False, True]
        told = [call["function"] for call in choice["message"].get("tool_calls", [])]
        assert told == ([] if "tool_choice" in fields else [{"name": "rain", "arguments": '{"city": "Rome"}'}])

    run(test())


def test_several_prompts_and_choices_are_numbered(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app()) as http:
            body = completion(prompt=["a", "bc"], n=2, echo=True, seed=5)
            reply = (await http.post(COMPLETION, json=body)).json()
            streamed = await http.post(COMPLETION, json={**body, "stream": True})
        texts = ["ahello", "ahello", "bchello", "bchello"]
        assert [(choice["index"], choice["text"]) for choice in reply["choices"]] == list(enumerate(texts))
        assert [job.params.seed for job in answers.jobs] == [5, 6, 7, 8] * 2
        parts = [""] * 4
        for event in events(streamed.text):
            parts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        assert parts == texts

    run(test())


ERRORS: dict[str, tuple[str, Any, int, str | None]] = {
    "no JSON": (CHAT, b"{", 400, None),
    "an empty body": (CHAT, b"", 400, None),
    "no object": (CHAT, b"[]", 400, None),
    "not UTF-8": (CHAT, b'{"model": "\xff"}', 400, None),
    "deep nesting": (CHAT, b"[" * 500_000, 400, None),
    "deep messages": (CHAT, b'{"model":"tiny","messages":' + b'[{"a":' * 50_000, 400, None),
    "another model": (CHAT, chat(model="gpt-4"), 404, "model"),
    "half a character as model": (CHAT, b'{"model": "\\udc00x", "messages": [{}]}', 404, "model"),
    "no messages": (CHAT, chat(messages=[]), 400, "messages"),
    "a wrong role": (CHAT, chat(messages=[{"role": ["x"], "content": "hi"}]), 400, "messages[0].role"),
    "a picture": (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        400,
        "messages[0].content",
    ),
    "a number as content": (CHAT, chat(messages=[{"role": "user", "content": 5}]), 400, "messages[0].content"),
    "a long prompt": (CHAT, chat(messages=[{"role": "user", "content": "x" * CONTEXT}]), 400, "messages"),
    "a long completion prompt": (COMPLETION, completion(prompt="x" * CONTEXT), 400, "prompt"),
    "an empty prompt": (COMPLETION, completion(prompt=""), 400, "prompt"),
    "a token out of the vocabulary": (COMPLETION, completion(prompt=[1, 256]), 400, "prompt"),
    "a negative token": (COMPLETION, completion(prompt=[-1]), 400, "prompt"),
    "a token that cannot end an answer": (CHAT, chat(stop_token_ids=[256]), 400, "stop_token_ids"),
    "a negative token that cannot end one": (COMPLETION, completion(stop_token_ids=[-1]), 400, "stop_token_ids"),
    "a huge token": (COMPLETION, completion(prompt=[2**70]), 400, "prompt"),
    "a bias out of the vocabulary": (CHAT, chat(logit_bias={"256": 5}), 400, "logit_bias"),
    "a bias of a huge token": (CHAT, chat(logit_bias={str(10**30): 5}), 400, "logit_bias"),
    "a ban of a huge token": (CHAT, chat(logit_bias={str(10**30): -5}), 400, "logit_bias"),
    "fewer than no tokens at least": (CHAT, chat(min_tokens=-1), 400, "min_tokens"),
    "a temperature": (CHAT, chat(temperature=-1), 400, "temperature"),
    "too many choices": (CHAT, chat(n=65), 400, "n"),
    "too many choices of several prompts": (COMPLETION, completion(prompt=["a"] * 64, n=33), 400, "n"),
    "a template's own variable": (CHAT, chat(chat_template_kwargs={"messages": []}), 400, "chat_template_kwargs"),
    "a method's own variable": (CHAT, chat(chat_template_kwargs={"self": 1}), 400, "chat_template_kwargs"),
}


@pytest.mark.parametrize(("path", "body", "status", "param"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_answered_in_openais_words(
    path: str, body: Any, status: int, param: str | None, stream: bool, script: Callable[..., Answers]
) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        content = json.dumps({**body, "stream": stream}).encode() if isinstance(body, dict) else body
        async with client(make_app()) as http:
            reply = await http.post(path, content=content)
        assert reply.status_code == status
        error = reply.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert error["message"].endswith(".")
        assert answers.jobs == []

    run(test())


def test_too_long_a_prompt_says_how_long(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        script(*DELTAS)
        async with client(make_app()) as http:
            error = (await http.post(COMPLETION, json=completion(prompt="x" * 70))).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert "70 tokens" in error["message"]
        assert "64" in error["message"]

    run(test())


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("encoding", ["identity", "Identity", "zstd", "br", "x" * 5000])
def test_a_body_may_have_a_mark_but_not_be_compressed_in_every_way(
    script: Callable[..., Answers], mark: bytes, encoding: str
) -> None:
    async def test() -> None:
        script(*DELTAS)
        headers = {"Content-Encoding": encoding}
        async with client(make_app()) as http:
            reply = await http.post(CHAT, content=mark + json.dumps(chat()).encode(), headers=headers)
        if encoding.lower() == "identity":
            assert reply.status_code == 200
        else:
            assert reply.status_code == 415
            assert encoding[:20] in reply.json()["error"]["message"]
            assert len(reply.text) < 300

    run(test())


@pytest.mark.parametrize(("most", "limit"), [(2000, 2000), (1000, 16 * CONTEXT)])
def test_a_body_over_the_limit_is_not_read(monkeypatch: pytest.MonkeyPatch, most: int, limit: int) -> None:
    monkeypatch.setattr(inbound, "_MAX_BODY", most)

    async def test() -> None:
        async with client(make_app()) as http:
            assert (await http.post(CHAT, content=b"x" * limit)).status_code == 400
            reply = await http.post(CHAT, content=b"x" * (limit + 1))
            assert reply.status_code == 413
            assert reply.json()["error"]["type"] == "invalid_request_error"

    run(test())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("served", "missing"), [((), "0-5"), (("1-2", "4"), "0, 3, 5")])
def test_uncovered_layers_are_named_with_503(stream: bool, served: tuple[str, ...], missing: str) -> None:
    async def test() -> None:
        async with client(make_app(make_swarm(*served).generation(Bytes()).answer)) as http:
            for path, body in ((CHAT, chat(stream=stream)), (COMPLETION, completion(stream=stream))):
                reply = await http.post(path, json=body)
                assert reply.status_code == 503
                assert reply.headers["retry-after"] == "5"
                assert reply.json()["error"] == {
                    "message": f"No node serves layers {missing} now.",
                    "type": "server_error",
                    "param": None,
                    "code": "unavailable",
                }

    run(test())


def test_an_error_before_the_first_token_has_its_status(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        script(Unavailable("All is taken."))
        async with client(make_app()) as http:
            for stream in (False, True):
                assert (await http.post(CHAT, json=chat(stream=stream, n=3))).status_code == 503

    run(test())


def test_a_full_line_is_told_in_openais_words(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        script(Busy("The swarm is busy."))
        async with client(make_app()) as http:
            for path, body in ((CHAT, chat()), (COMPLETION, completion(stream=True))):
                reply = await http.post(path, json=body)
                assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
                assert reply.json()["error"] == {
                    "message": "The swarm is busy.",
                    "type": "rate_limit_error",
                    "param": None,
                    "code": "queue_full",
                }

    run(test())


def test_the_least_tokens_are_those_of_the_request(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app()) as http:
            for path, body in ((CHAT, chat(min_tokens=5, max_tokens=5)), (COMPLETION, completion(min_tokens=16))):
                assert (await http.post(path, json=body)).status_code == 200
            assert (await http.post(CHAT, json=chat())).status_code == 200
        assert [job.min_tokens for job in answers.jobs] == [5, 16, 0]

    run(test())


def test_an_answer_that_breaks_off_keeps_its_text(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        script(*DELTAS[:2], Unavailable("The answer ends here."))
        async with client(make_app()) as http:
            reply = await http.post("/v1/completions", json={"model": "tiny", "prompt": "x"})
        assert reply.status_code == 503
        error = reply.json()["error"]
        assert (error["message"], error["code"]) == ("The answer ends here.", "unavailable")
        [choice] = error["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("hello", None)

    run(test())


def test_requests_are_of_one_account_and_of_the_class_that_they_name(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app()) as http:
            for path, body in ((CHAT, chat()), (CHAT, chat(priority="batch")), (COMPLETION, completion())):
                assert (await http.post(path, json=body)).status_code == 200
        assert [job.claim for job in answers.jobs] == [EVERYONE, Claim(rank=Rank.BATCH), EVERYONE]

    run(test())


def test_accounts_are_told_by_the_request(script: Callable[..., Answers]) -> None:
    def claim(request: Request, priority: Priority) -> Claim:
        return Claim(request.headers["x-account"], Rank.of(priority, anonymous=True), 2.0)

    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app(claim=claim)) as http:
            for path, body in ((CHAT, chat(n=2)), (COMPLETION, completion(n=2))):
                reply = await http.post(path, json=body, headers={"x-account": path})
                assert reply.status_code == 200
        assert [job.claim for job in answers.jobs] == [
            Claim(path, Rank.ANONYMOUS, 2.0) for path in (CHAT, COMPLETION) for _ in range(2)
        ]

    run(test())


def test_an_error_in_mid_answer_is_told_in_the_stream(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        script(DELTAS[0], RouteLost("A node has left."))
        async with client(make_app()) as http:
            *_, first, error = events((await http.post(CHAT, json=chat(stream=True))).text)
            assert first["choices"][0]["delta"]["content"] == "he"
            assert error["error"]["message"] == "A node has left."
            assert (await http.post(CHAT, json=chat())).status_code == 503

    run(test())


class ImpatientProxy:
    """Stands before the application, and hangs up after ten seconds in which nothing came, as some proxies do.

    heads: when the head of a reply came. statuses: those of the replies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.statuses: list[int] = []
        self.heads: list[float] = []
        self.sent = b""
        self.hung_up = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop, asked = asyncio.get_running_loop(), False
        silence = loop.call_later(10, self.hung_up.set)

        async def ask() -> Any:
            nonlocal asked
            if not asked:
                message = await receive()
                asked = not message.get("more_body", False)
                return message
            await self.hung_up.wait()
            return {"type": "http.disconnect"}

        async def pass_on(message: Any) -> None:
            nonlocal silence
            silence.cancel()
            silence = loop.call_later(10, self.hung_up.set)
            if message["type"] == "http.response.start":
                self.heads.append(loop.time())
                self.statuses.append(message["status"])
            self.sent += message.get("body", b"")
            await send(message)

        try:
            await self._app(scope, ask, pass_on)
        finally:
            silence.cancel()


class NoPool(Pool):
    """Works without threads, so that the time may leap."""

    async def of(self, _: Any, work: Callable[[], Any]) -> Any:
        return work()


def slow_answer(*script: Delta | Exception | float) -> Generate:
    """Plays a script in which a number is so many seconds of silence."""

    async def generate(_: Job) -> AsyncGenerator[Delta, None]:
        for item in script:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Delta):
                yield item
            else:
                await asyncio.sleep(item)

    return generate


def through_a_proxy(
    *script: Delta | Exception | float, run: Callable[..., Any] = run_leaping, **fields: Any
) -> tuple[ImpatientProxy, httpx.Response]:
    async def test() -> tuple[ImpatientProxy, httpx.Response]:
        proxy = ImpatientProxy(make_app(slow_answer(*script), pool=NoPool()))
        async with client(proxy) as http:
            return proxy, await http.post(CHAT, json=chat(stream=True, **fields))

    told: tuple[ImpatientProxy, httpx.Response] = run(test())
    return told


def without_comments(text: str) -> str:
    return "".join(f"{block}\n\n" for block in text.split("\n\n")[:-1] if not block.startswith(":"))


@pytest.mark.parametrize("choices", [1, 3])
def test_an_answer_passes_a_proxy_that_closes_silent_streams(choices: int) -> None:
    proxy, reply = through_a_proxy(25, DELTAS[0], 15, *DELTAS[1:], n=choices)
    assert not proxy.hung_up.is_set()
    assert reply.headers["x-accel-buffering"] == "no"
    [begun] = proxy.heads
    assert begun < 1
    chunks = events(without_comments(reply.text))
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert sorted("".join(texts)) == sorted("hello" * choices)
    assert reply.text.count(": ") > (25 + 15) / 10


def test_an_answer_that_is_not_silent_has_no_comments() -> None:
    _, reply = through_a_proxy(0.4, DELTAS[0], 4.9, *DELTAS[1:])
    assert reply.text == without_comments(reply.text)


def test_a_refusal_is_an_http_error_and_what_fails_later_is_an_event() -> None:
    _, reply = through_a_proxy(0, Busy("The swarm is busy."), run=run)  # a thread makes the reply
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
    proxy, reply = through_a_proxy(20, Unavailable("No node serves layers 0-5 now."))
    assert proxy.statuses == [200]
    [error] = events(without_comments(reply.text))
    assert error["error"] == {
        "message": "No node serves layers 0-5 now.",
        "type": "server_error",
        "param": None,
        "code": "unavailable",
    }


def test_who_hangs_up_while_a_stream_is_silent_ends_the_answer(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        answers, hang_up = script(asyncio.Event()), asyncio.Event()
        app = make_app(pool=NoPool())
        connection = Connection(app, CHAT, json.dumps(chat(stream=True)).encode(), hang_up=hang_up)
        await asyncio.sleep(30)
        assert connection.received.startswith(b": ")
        assert answers.open == 1
        hang_up.set()
        await answers.closed.wait()
        await connection.task

    run_leaping(test())


class Connection:
    """A client below HTTP: sends the given parts of its request, and hangs up when it is told to."""

    def __init__(self, app: Starlette, path: str, *parts: bytes, hang_up: asyncio.Event) -> None:
        self.parts = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        ]
        self.hang_up = hang_up
        self.received = b""
        self.answered = asyncio.Event()
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self.parts:
            return self.parts.pop(0)
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await asyncio.sleep(0)  # as a server does that waits for its socket
        if self.hang_up.is_set():
            return
        self.received += message.get("body", b"")
        if b"he" in self.received:
            self.answered.set()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choices", [1, 3])
def test_who_hangs_up_before_the_first_token_ends_the_answer(
    stream: bool, choices: int, script: Callable[..., Answers]
) -> None:
    async def test() -> None:
        answers, hang_up = script(asyncio.Event()), asyncio.Event()
        connection = Connection(make_app(), CHAT, json.dumps(chat(stream=stream, n=choices)).encode(), hang_up=hang_up)
        await answers.begun.wait()
        hang_up.set()
        await answers.closed.wait()
        await connection.task
        assert len(answers.jobs) == choices

    run(test())


@pytest.mark.parametrize("silent", [False, True])
def test_who_hangs_up_in_mid_stream_ends_the_answer(silent: bool, script: Callable[..., Answers]) -> None:
    async def test() -> None:
        wait = (asyncio.Event(),) if silent else (DELTAS[0],) * 100_000
        answers, hang_up = script(DELTAS[0], *wait), asyncio.Event()
        connection = Connection(make_app(), CHAT, json.dumps(chat(stream=True)).encode(), hang_up=hang_up)
        await connection.answered.wait()
        hang_up.set()
        await answers.closed.wait()
        await asyncio.gather(connection.task, return_exceptions=True)

    run(test())


def test_who_hangs_up_while_asking_leaves_no_traceback() -> None:
    async def test() -> None:
        hang_up = asyncio.Event()
        connection = Connection(make_app(), CHAT, b'{"model": "ti', b"", hang_up=hang_up)
        connection.parts[-1]["more_body"] = True
        hang_up.set()
        await asyncio.wait([connection.task])
        assert connection.task.exception() is None

    run(test())


def test_merged_answers_come_as_they_are_ready() -> None:
    async def test() -> None:
        gate = asyncio.Event()

        async def slow() -> AsyncGenerator[Delta, None]:
            await gate.wait()
            yield Delta("slow")

        async def quick() -> AsyncGenerator[Delta, None]:
            yield Delta("quick")
            gate.set()

        got = [(item[0], item[1].text) async for item in merge([slow(), quick()]) if item is not None]
        assert got == [(1, "quick"), (0, "slow")]

    run(test())


def test_one_failing_answer_ends_them_all() -> None:
    async def test() -> None:
        closed = asyncio.Event()

        async def endless() -> AsyncGenerator[Delta, None]:
            try:
                yield Delta("one")
                await asyncio.Event().wait()
            finally:
                closed.set()

        async def failing() -> AsyncGenerator[Delta, None]:
            yield Delta("two")
            raise Unavailable("It is over.")

        merged = merge([endless(), failing()])
        first, second = await anext(merged), await anext(merged)
        assert first is not None
        assert second is not None
        assert {first[1].text, second[1].text} == {"one", "two"}
        with pytest.raises(Unavailable, match="It is over"):
            await anext(merged)
        assert closed.is_set()

    run(test())


def test_all_answers_to_a_request_share_its_biases(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        answers = script(*DELTAS)
        async with client(make_app()) as http:
            await http.post(CHAT, json=chat(n=64, seed=3, logit_bias={"7": 5, "9": -5}))
        first = answers.jobs[0].params.logit_bias
        assert first == {7: 5, 9: -5}
        assert all(job.params.logit_bias is first for job in answers.jobs)
        assert {job.params.seed for job in answers.jobs} == set(range(3, 67))

    run(test())


def test_answers_may_raise_only_so_many_tokens(script: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_MOST_LIFTED", 6)

    async def test() -> None:
        script(*DELTAS)
        async with client(make_app()) as http:
            biases = {"1": 1, "2": 1, "3": 1, "4": -1}
            assert (await http.post(CHAT, json=chat(n=2, logit_bias=biases))).status_code == 200
            reply = await http.post(CHAT, json=chat(n=3, logit_bias=biases))
            assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logit_bias")

    run(test())


def test_a_whole_answer_holds_only_so_many_log_probabilities(
    script: Callable[..., Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_MOST_LOGPROBS", 300)

    async def test() -> None:
        script(*DELTAS)
        async with client(make_app()) as http:
            for path, asked in ((CHAT, chat(logprobs=True)), (COMPLETION, completion(logprobs=1))):
                assert (await http.post(path, json=asked)).status_code == 200
                whole = await http.post(path, json={**asked, "n": 64})
                assert (whole.status_code, "ask for a stream" in whole.text) == (400, True)
                assert len(events((await http.post(path, json={**asked, "n": 64, "stream": True})).text)) > 64

    run(test())


def test_prompts_that_are_echoed_are_read_once_for_all_answers(script: Callable[..., Answers]) -> None:
    async def test() -> None:
        script(*DELTAS)
        async with client(make_app()) as http:
            asked = completion(prompt=["ab", "cd"], n=2, echo=True)
            choices = (await http.post(COMPLETION, json=asked)).json()["choices"]
            assert [choice["text"] for choice in choices] == ["abhello", "abhello", "cdhello", "cdhello"]

    run(test())


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("completions", {"prompt": "z"}, "prompt"),
        ("completions", {"prompt": [122]}, "prompt"),
        ("completions", {"prompt": "A", "logit_bias": {"122": 1}}, "logit_bias"),
        ("chat/completions", {"messages": [{"role": "user", "content": "z"}]}, "messages"),
    ],
)
def test_tokens_that_only_the_tokenizer_has_reach_no_node(path: str, body: dict[str, object], param: str) -> None:
    async def test() -> None:
        async with client(make_app(embedded=122)) as one:
            reply = await one.post(f"/v1/{path}", json={"model": "tiny", **body})
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == param

    run(test())
