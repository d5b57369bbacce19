"""Fields of chats at the other doors: those that chats take count there too, and what chats refuse is refused."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from kit.runner import run
from kit.scripted import Scripted, calls, says
from potluck.coordinator.generation.job import Job

BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]},
}


def post(scripted: Scripted, path: str, **fields: Any) -> httpx2.Response:
    async def test() -> httpx2.Response:
        async with scripted.http() as http:
            return await http.post(path, json={**BODIES[path], **fields})

    return run(test())


def job_of(path: str, **fields: Any) -> Job:
    scripted = Scripted(says("Yes."))
    reply = post(scripted, path, **fields)
    assert reply.status_code == 200, reply.text
    [job] = scripted.jobs
    return job


@pytest.mark.parametrize("path", BODIES)
def test_what_chats_take_counts_here_too(path: str) -> None:
    assert job_of(path, guided_choice=["a", "b"]).grammar is not None
    assert job_of(path, response_format={"type": "json_object"}).grammar is not None
    params = job_of(path, frequency_penalty=2, logit_bias={"5": 1}, repetition_penalty=1.5).params
    assert (params.frequency_penalty, params.logit_bias, params.repetition_penalty) == (2, {5: 1}, 1.5)
    job = job_of(path, stop_token_ids=[7], min_tokens=2, ignore_eos=True)
    assert (job.stop_ids, job.min_tokens, job.ignore_eos) == ({7}, 2, True)
    assert job_of("/v1/responses", max_tokens=3).max_tokens == 3
    assert job_of("/v1/responses", max_tokens=3, max_output_tokens=5).max_tokens == 5


@pytest.mark.parametrize(
    "field",
    [
        *({"n": 2}, {"logprobs": True}, {"top_logprobs": 2}, {"suffix": "x"}, {"functions": [1]}, {"best_of": 3}),
        *({"modalities": ["audio"]}, {"use_beam_search": True}, {"prompt_logprobs": 0}),
    ],
)
@pytest.mark.parametrize("path", BODIES)
def test_what_chats_refuse_is_refused_here(path: str, field: dict[str, Any]) -> None:
    reply = post(Scripted(), path, **field)
    assert reply.status_code == 400
    [name] = field
    assert reply.json()["error"]["message"].startswith(f"{name} is not supported")


@pytest.mark.parametrize("path", BODIES)
def test_what_asks_for_nothing_is_no_fault(path: str) -> None:
    nothing = {"n": 1, "logprobs": False, "top_logprobs": None, "suffix": "", "guided_json": None, "user": "me"}
    assert job_of(path, **nothing).grammar is None


def test_no_previous_response_may_be_an_empty_text() -> None:
    assert job_of("/v1/responses", previous_response_id="").grammar is None


def test_tools_of_responses_may_have_the_form_of_chats() -> None:
    tool = {"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}
    assert b"tool rain" in bytes(job_of("/v1/responses", tools=[tool]).prompt)


SPACE = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]}
CACHED_SEARCH = {"type": "web_search", "external_web_access": False}


def test_a_namespace_is_several_tools() -> None:
    scripted = Scripted(says(calls("agents__spawn", '{"task": "x"}')), says("Done."))
    reply = post(scripted, "/v1/responses", tools=[SPACE, CACHED_SEARCH]).json()
    assert bytes(scripted.jobs[0].prompt).count(b"tool agents__spawn") == 1
    [call] = [item for item in reply["output"] if item["type"] == "function_call"]
    assert (call["namespace"], call["name"], call["arguments"]) == ("agents", "spawn", '{"task": "x"}')
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "fine"}
    asked = [{"role": "user", "content": "Hi"}, call, result]
    assert post(scripted, "/v1/responses", input=asked, tools=[SPACE]).status_code == 200
    assert b'agents__spawn{"task": "x"}' in bytes(scripted.jobs[1].prompt)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "namespace", "name": "a", "tools": 5}, "tools[0]"),
        ({"type": "namespace", "tools": []}, "tools[0].name"),
        ({"type": "namespace", "name": "a", "tools": [{"type": "web_search"}]}, "tools[0].tools[0]"),
        ({"type": "web_search"}, "tools[0]"),
        ({"type": "web_search", "external_web_access": True}, "tools[0]"),
    ],
)
def test_a_tool_that_cannot_be_offered_is_refused_at_its_place(tool: dict[str, Any], param: str) -> None:
    reply = post(Scripted(), "/v1/responses", tools=[tool])
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
