"""Several models behind one address: which one a request means."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from kit.runner import run
from kit.scripted import Bytes
from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.http.auth import Caller
from potluck.coordinator.http.doors.doors import Doors
from potluck.coordinator.http.errors import error_response
from potluck.coordinator.http.models import Models
from potluck.coordinator.http.openai import OpenAI
from potluck.coordinator.http.research import Research
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.http.service import Service
from potluck.coordinator.text.encoder import PlainEncoder
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import PotluckError

TEMPLATE = "{{ messages[-1].content }}"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
MESSAGE = {**CHAT, "max_tokens": 4}


def service(name: str, context: int, *aliases: str) -> Service:
    """A model whose answers say its name."""

    async def answer(_: Job) -> AsyncGenerator[Delta, None]:
        yield Delta(name)
        yield Delta(finish="stop")

    encoder = PlainEncoder(Bytes(), ChatTemplate(TEMPLATE))
    return Service(answer, Bytes(), encoder, name, context, 1, embedded=256, aliases=aliases)


def ask(
    path: str, body: dict[str, Any] | None = None, *services: Service, allowed: tuple[str, ...] = ()
) -> httpx.Response:
    """allowed: the models that the caller's key may ask; empty means all."""
    served = Models(*(services or (service("one", 64), service("two", 128, "second"))))
    routes = routes_of(OpenAI(served), Doors(served), Research(served, {}))
    app = Starlette(routes=routes, exception_handlers={PotluckError: error_response})

    async def known(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = Caller("ann", models=allowed)
        await app(scope, receive, send)

    async def test() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(known), base_url="http://potluck") as http:
            return await (http.get(path) if body is None else http.post(path, json=body))

    return run(test())


@pytest.mark.parametrize(("asked", "name"), [("one", "one"), ("two", "two"), ("second", "two")])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_a_request_goes_to_the_model_that_it_names(path: str, asked: str, name: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "hi"},
        "/v1/messages": MESSAGE,
        "/v1/responses": {"input": "hi"},
    }
    told = ask(path, {"model": asked, **bodies.get(path, CHAT)})
    assert told.status_code == 200, told.text
    assert told.json()["model"] == name
    assert told.text.count(name) >= 2  # its answer says so, too


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("model", [{}, {"model": ""}])
def test_with_several_models_one_must_be_named(path: str, model: dict[str, str]) -> None:
    told = ask(path, {**model, **MESSAGE})
    assert told.status_code == 400
    assert "Several models are served here, so name one: 'one', 'two', 'second'." in told.text


def test_a_model_that_is_not_served_is_refused_with_the_list() -> None:
    told = ask("/v1/chat/completions", {"model": "three", **CHAT})
    assert (told.status_code, told.json()["error"]["code"]) == (404, "model_not_found")
    assert told.json()["error"]["message"] == "The model 'three' is not served here; 'one', 'two', 'second' are."
    alone = ask("/v1/chat/completions", {"model": "three", **CHAT}, service("one", 64))
    assert alone.json()["error"]["message"] == "The model 'three' is not served here; 'one' is."


def test_all_models_are_listed_with_all_their_names() -> None:
    listed = ask("/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["one", "two", "second"]
    assert ask("/v1/models/second").json()["id"] == "second"
    assert ask("/v1/models/three").status_code == 404


def test_each_model_has_its_own_context() -> None:
    text = "x" * 100
    assert ask("/v1/completions", {"model": "two", "prompt": text}).status_code == 200
    told = ask("/v1/completions", {"model": "one", "prompt": text})
    assert told.json()["error"]["code"] == "context_length_exceeded"
    assert "the context of 64" in told.text


def test_researchers_name_the_model_too() -> None:
    assert ask("/tokenize", {"content": "hi", "model": "two"}).json() == {"tokens": [104, 105]}
    assert ask("/tokenize", {"content": "hi"}).status_code == 400
    assert ask("/detokenize", {"tokens": [104], "model": "one"}).json()["content"] == "h"
    assert ask("/tokenizer_info?model=two").status_code == 200
    assert ask("/tokenizer_info").status_code == 400


@pytest.mark.parametrize("named", ["two", "second"])
def test_a_key_for_one_model_asks_that_one_and_sees_no_other(named: str) -> None:
    assert [each["id"] for each in ask("/v1/models", allowed=(named,)).json()["data"]] == ["two", "second"]
    assert ask("/v1/chat/completions", CHAT, allowed=(named,)).json()["model"] == "two"
    told = ask("/v1/chat/completions", {"model": "one", **CHAT}, allowed=(named,))
    assert (told.status_code, told.json()["error"]["message"]) == (
        404,
        "The model 'one' is not served here; 'two', 'second' is.",
    )
    assert ask("/v1/models/one", allowed=(named,)).status_code == 404


def test_a_key_for_a_model_that_is_no_longer_served_is_told_so() -> None:
    told = ask("/v1/chat/completions", {"model": "one", **CHAT}, allowed=("three",))
    assert (told.status_code, told.json()["error"]["code"]) == (403, "forbidden")
    assert ask("/v1/models", allowed=("three",)).json()["data"] == []
