"""Other people's libraries against SmolLM2 on three nodes: all of them are told what the official client is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from kit.foreign import SCRIPTS, python_with, surroundings
from kit.processes import finish, free_port, staying
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = [{"role": "user", "content": "What is the weather in Cologne?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
KEY = "sk-of-the-proxy-and-of-no-one-else"
"""Its clients' key, without which this proxy does not start."""
CALL = {"name": "weather", "arguments": {"city": "Cologne"}}
CAPITAL: Any = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "certain": {"type": "boolean"}},
    "required": ["city", "certain"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def name(tool_swarm: LocalSwarm) -> str:
    return str(tool_swarm.status()["model"])


def told(client: openai.OpenAI, name: str, for_text: str) -> dict[str, Any]:
    """What the scripts print, by the official client. for_text: the model's name for completions."""

    def ask(messages: Any, **options: Any) -> Any:
        return client.chat.completions.create(
            model=name, messages=messages, temperature=0, **{"max_tokens": 60} | options
        )

    def streamed(messages: Any, **options: Any) -> Any:
        with client.chat.completions.stream(
            model=name, messages=messages, temperature=0, max_tokens=60, **options
        ) as stream:
            return stream.get_final_completion()

    def calls_of(reply: Any) -> list[dict[str, Any]]:
        calls = reply.choices[0].message.tool_calls or []
        return [{"name": call.function.name, "arguments": json.loads(call.function.arguments)} for call in calls]

    whole, called = ask(QUESTION), ask(WEATHER, tools=[TOOL])
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "It rains in Cologne."}
        for call in called.choices[0].message.tool_calls or []
    ]
    form = {"type": "json_schema", "json_schema": {"name": "Capital", "schema": CAPITAL}}
    text = client.completions.create(model=for_text, prompt="Once upon a time", temperature=0, max_tokens=16)
    return {
        "chat": whole.choices[0].message.content,
        "streamed": streamed(QUESTION).choices[0].message.content,
        "tokens": whole.usage.completion_tokens,
        "text": text.choices[0].text,
        "calls": calls_of(called),
        "streamed_calls": calls_of(streamed(WEATHER, tools=[TOOL])),
        "last": ask([*WEATHER, called.choices[0].message, *results], tools=[TOOL]).choices[0].message.content,
        "structured": [json.loads(ask(QUESTION, response_format=form).choices[0].message.content)],
    }


@pytest.fixture(scope="module")
def expected(tool_swarm: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI], name: str) -> dict[str, Any]:
    return told(client_of(tool_swarm), name, name)


def test_the_official_client_is_told_something_to_compare_with(expected: dict[str, Any]) -> None:
    assert expected["chat"] == expected["streamed"] == "The capital of France is Paris."
    assert expected["calls"] == expected["streamed_calls"] == [CALL]
    assert expected["last"] == "It rains in Cologne."


@pytest.mark.parametrize("library", ["langchain", "litellm", "llama_index", "llm"])
def test_a_library_is_told_the_same(
    library: str, tool_swarm: LocalSwarm, name: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    python = python_with(library, tmp_path)
    command = [python, SCRIPTS / f"use_{library}.py", f"{tool_swarm.url}/v1", name]
    done = finish(*command, cwd=tmp_path, env=surroundings(tmp_path))
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    structured = got.pop("structured")
    assert got == {field: value for field, value in expected.items() if field != "structured"}
    assert structured
    for value in structured:
        assert value.keys() == CAPITAL["properties"].keys()
        assert value["city"] in ("Paris", "Rome")
        assert value["certain"] in (True, False)


def test_litellm_as_a_proxy_passes_everything_on(
    tool_swarm: LocalSwarm, name: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    python, port = python_with("litellm", tmp_path), free_port()
    place = {"api_base": f"{tool_swarm.url}/v1", "api_key": "none"}
    served = {"ours": f"openai/{name}", "ours-text": f"text-completion-openai/{name}"}
    models = [{"model_name": ours, "litellm_params": {"model": model, **place}} for ours, model in served.items()]
    (tmp_path / "config.yaml").write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    command = [python.parent / "litellm", "--config", tmp_path / "config.yaml", "--host", "127.0.0.1", "--port", port]
    with staying(*command, log=tmp_path / "log", env=surroundings(tmp_path)) as proxy:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: proxy.poll() is not None or answers(url))
        assert proxy.poll() is None, (tmp_path / "log").read_text()
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=HANG_S) as client:
            assert told(client, "ours", "ours-text") == expected


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness").is_success
    except httpx.TransportError:
        return False
