"""OpenAI's Predicted Outputs, by the official client: what an answer is told of them, and what is told of guesses."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import httpx2
import openai
import pytest
from starlette.applications import Starlette

from kit.runner import run
from kit.scripted import CONTEXT, Bytes, Script, Scripted
from potluck.coordinator.generation.guesses import Guessed
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.swarm.tally import Outcome, Source
from potluck.coordinator.text.encoder import PlainEncoder
from potluck.coordinator.text.template import ChatTemplate

HI = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "def f"}
GUESSED = {
    (Source.PREDICTION, Outcome.RIGHT): 5,
    (Source.PREDICTION, Outcome.WRONG): 2,
    (Source.PREDICTION, Outcome.VOID): 4,
    (Source.REPEAT, Outcome.RIGHT): 10,
    (Source.MODEL, Outcome.WRONG): 20,
    (Source.MODEL, Outcome.VOID): 40,
}
DETAILS = {"reasoning_tokens": 0, "accepted_prediction_tokens": 5, "rejected_prediction_tokens": 6}
COUNTS = {"right": 15, "wrong": 22, "void": 44}


def guessing() -> Script:
    """An answer whose end tells what became of guesses."""
    return [Delta("he"), Delta("llo", finish="stop", guessed=Guessed(Counter(GUESSED)))]


def predicted(text: Any) -> dict[str, Any]:
    return {"type": "content", "content": text}


def with_client(scripted: Scripted, test: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
    async def body() -> Any:
        async with scripted.http() as http:
            client = openai.AsyncOpenAI(api_key="pk-x", base_url="http://potluck/v1", http_client=http, max_retries=0)
            return await test(client)

    return run(body())


def chat(scripted: Scripted, **fields: Any) -> Any:
    """The answer; of a stream, its last chunk."""

    async def test(client: openai.AsyncOpenAI) -> Any:
        answer = await client.chat.completions.create(**{"model": "tiny", "messages": [HI], **fields})
        return [chunk async for chunk in answer][-1] if fields.get("stream") else answer

    return with_client(scripted, test)


def complete(scripted: Scripted, **fields: Any) -> Any:
    async def test(client: openai.AsyncOpenAI) -> Any:
        return await client.completions.create(model="tiny", prompt="Hi", extra_body=fields)

    return with_client(scripted, test)


def post(scripted: Scripted, path: str, body: Any) -> httpx2.Response:
    async def test() -> httpx2.Response:
        async with scripted.http() as http:
            return await http.post(path, json=body)

    return run(test())


def asking(path: str, prediction: Any) -> dict[str, Any]:
    asked = {"/v1/completions": {"prompt": "Hi"}, "/v1/responses": {"input": "Hi"}}.get(path, {"messages": [HI]})
    return {"model": "tiny", "prediction": prediction, **asked}


def prediction_of(scripted: Scripted) -> str:
    return bytes(scripted.jobs[-1].prediction).decode()


@pytest.mark.parametrize(
    ("prediction", "text"),
    [
        (None, ""),
        (predicted("def f(): pass"), "def f(): pass"),
        (predicted("null"), "null"),
        (predicted(""), ""),
        (predicted(None), ""),
        (predicted([]), ""),
        (
            predicted([{"type": "text", "text": "def f():\n"}, {"type": "text", "text": "    pass"}]),
            "def f():\n    pass",
        ),
        (predicted([{"type": "input_text", "text": "a"}, {"text": "b"}, {"type": "text", "text": None}, "c"]), "abc"),
        ({"content": "def f(): pass"}, "def f(): pass"),
    ],
)
def test_the_text_of_a_prediction(prediction: Any, text: str) -> None:
    scripted = Scripted(guessing(), guessing())
    assert chat(scripted, prediction=prediction).usage.prompt_tokens == len(scripted.prompts[0])
    assert prediction_of(scripted) == text
    assert complete(scripted, prediction=prediction).usage.prompt_tokens == len("Hi")
    assert prediction_of(scripted) == text


@pytest.mark.parametrize(
    ("prediction", "param", "sentence"),
    [
        ("def f()", "prediction", "prediction must be an object, not a text."),
        ({}, "prediction", "prediction.content is missing."),
        ({"type": "content"}, "prediction", "prediction.content is missing."),
        (
            {"type": "diff", "content": "x"},
            "prediction.type",
            "prediction.type must be \"content\", not 'diff'.",
        ),
        (predicted(5), "prediction.content", "prediction.content must be a text or a list, not a whole number."),
        (predicted({}), "prediction.content", "prediction.content must be a text or a list, not an object."),
        (
            predicted([5]),
            "prediction.content",
            "prediction.content[0] must be a text or an object, not a whole number.",
        ),
        (
            predicted(["a", {"type": "image_url", "image_url": {"url": "x"}, "text": "a"}]),
            "prediction.content",
            'prediction.content[1].type must be "input_text", "output_text" or "text", not \'image_url\'.',
        ),
        (predicted([{"type": "text"}]), "prediction.content", "prediction.content[0].text is missing."),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_what_is_no_prediction_is_refused_in_a_sentence(path: str, prediction: Any, param: str, sentence: str) -> None:
    reply = post(Scripted(), path, asking(path, prediction))
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, sentence)
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_the_other_doors_take_a_prediction_too(path: str) -> None:
    scripted = Scripted(guessing())
    usage = post(scripted, path, asking(path, predicted("hello"))).json()["usage"]
    assert prediction_of(scripted) == "hello"
    assert usage["output_tokens"] == 2
    assert "guesses" not in usage  # the counts are in the words of chats


def test_of_a_long_prediction_as_much_counts_as_the_context_has() -> None:
    """A whole file may be longer than the answer, which may need any part of it."""
    scripted = Scripted(guessing())
    text = "".join(chr(97 + place % 26) for place in range(3 * CONTEXT))
    chat(scripted, prediction=predicted(text), max_completion_tokens=5)
    assert prediction_of(scripted) == text[:CONTEXT]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": [HI, SAID]}, "(): pass"),
        ({"messages": [HI, SAID], "continue_final_message": True}, "(): pass"),
        ({"messages": [HI, SAID], "add_generation_prompt": True}, "def f(): pass"),
        ({"messages": [HI, {**SAID, "content": "class"}]}, "def f(): pass"),
        ({"messages": [{**HI, "content": "def f"}]}, "def f(): pass"),
    ],
)
def test_a_prediction_may_begin_with_the_text_that_the_answer_continues(fields: dict[str, Any], text: str) -> None:
    scripted = Scripted(guessing())
    post(scripted, "/v1/chat/completions", {"prediction": predicted("def f(): pass"), **fields})
    assert prediction_of(scripted) == text


def test_every_answer_gets_the_prediction_and_tokens_that_the_model_does_not_know_are_left_out() -> None:
    jobs: list[Job] = []

    async def generate(job: Job) -> AsyncGenerator[Delta, None]:
        jobs.append(job)
        yield Delta(finish="stop")

    encoder = PlainEncoder(Bytes(), ChatTemplate(None))
    app = Starlette(
        routes=routes_of(OpenAI(Models(Service(generate, Bytes(), encoder, "tiny", CONTEXT, 1, embedded=123))))
    )

    async def test() -> None:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://potluck") as http:
            fields = {"prompt": ["a", "b"], "n": 2, "prediction": predicted("xy{z")}
            assert (await http.post("/v1/completions", json=fields)).status_code == 200

    run(test())
    assert [bytes(job.prediction) for job in jobs] == [b"xyz"] * 4


@pytest.mark.parametrize("stream", [False, True])
def test_usage_counts_guesses(stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    usage = chat(Scripted(guessing()), **options).usage
    assert usage.completion_tokens_details.to_dict() == DETAILS
    assert usage.guesses == COUNTS
    assert (usage.completion_tokens, usage.total_tokens) == (2, usage.prompt_tokens + 2)


def test_usage_counts_the_guesses_of_all_choices() -> None:
    usage = chat(Scripted(guessing(), guessing(), guessing()), n=3).usage
    assert usage.completion_tokens_details.to_dict() == {name: 3 * count for name, count in DETAILS.items()}
    assert usage.guesses == {name: 3 * count for name, count in COUNTS.items()}


def test_usage_counts_the_guesses_of_completions() -> None:
    usage = complete(Scripted(guessing()), prediction=predicted("hello")).usage
    assert usage.completion_tokens_details.to_dict() == DETAILS
    assert usage.guesses == COUNTS


def test_without_guesses_there_are_no_counts_of_them() -> None:
    usage = chat(Scripted([Delta("hello", finish="stop")]), prediction=predicted("hello")).usage
    assert usage.completion_tokens_details.to_dict() == dict.fromkeys(DETAILS, 0)
    assert "guesses" not in usage.to_dict()
