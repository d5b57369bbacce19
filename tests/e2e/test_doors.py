"""A tool loop of two turns by the official clients of the other doors, on three nodes of which one is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from kit.processes import LOCAL, ONE_THREAD
from kit.proxy import Proxy
from kit.tiny_gguf import CHAT_TEMPLATE, EXACT, write_tiny_gguf
from potluck.local import HANG_S, LocalSwarm, Process

TEMPLATE = '{% if tools %}<tool_call>{"name": …, "arguments": …}</tool_call>{{ tools | tojson }}{% endif %}'
QUESTION: Any = {"role": "user", "content": "Will it rain in Cologne?"}
NOTE = {"type": "string", "pattern": "^[a-z]{200}$"}
"""An argument that takes a while to write."""
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"note": NOTE}, "required": ["note"]}
TOKENS = 400
BEGUN = 20
"""The pieces after which a node is killed."""

Loop = Callable[[str, bool], Iterator[str]]
"""Runs the loop on a swarm with this URL, streamed or not, and gives what the model writes, piece by piece."""


def by_messages(url: str, stream: bool) -> Iterator[str]:
    tool: Any = {"name": "rain", "input_schema": SCHEMA}
    options: dict[str, Any] = {
        "model": "tools",
        "max_tokens": TOKENS,
        "tools": [tool],
        "extra_body": {"temperature": 0},
    }
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=HANG_S) as client:

        def turn(**fields: Any) -> Iterator[str]:
            if stream:
                with client.messages.stream(**options, **fields) as events:
                    for event in events:
                        if event.type == "content_block_delta":
                            yield ""
                    answers.append(events.get_final_message())
            else:
                answers.append(client.messages.create(**options, **fields))
            for block in answers[-1].content:
                yield block.text if block.type == "text" else f"{block.name}: {block.input}\n"

        answers: list[Any] = []
        yield from turn(messages=[QUESTION], tool_choice={"type": "any", "disable_parallel_tool_use": True})
        [use] = answers[0].content
        assert (answers[0].stop_reason, use.type) == ("tool_use", "tool_use")
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "It will."}
        history = [
            QUESTION,
            {"role": "assistant", "content": answers[0].content},
            {"role": "user", "content": [result]},
        ]
        yield from turn(messages=history, tool_choice={"type": "none"})
        assert answers[1].stop_reason in ("end_turn", "max_tokens")


def by_responses(url: str, stream: bool) -> Iterator[str]:
    tool: Any = {"type": "function", "name": "rain", "parameters": SCHEMA}
    options: dict[str, Any] = {"model": "tools", "max_output_tokens": TOKENS, "tools": [tool], "temperature": 0}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=HANG_S) as client:

        def turn(**fields: Any) -> Iterator[str]:
            if stream:
                with client.responses.stream(**options, **fields) as events:
                    last: Any = None
                    for last in events:
                        if last.type.endswith(".delta"):
                            yield ""
                answers.append(last.response)
            else:
                answers.append(client.responses.create(**options, **fields))
            yield answers[-1].output_text
            for item in answers[-1].output:
                if item.type == "function_call":
                    yield f"{item.name}: {item.arguments}\n"

        answers: list[Any] = []
        yield from turn(input=[QUESTION], tool_choice="required", parallel_tool_calls=False)
        [call] = answers[0].output
        assert (answers[0].status, call.type) == ("completed", "function_call")
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "It will."}
        yield from turn(input=[result], previous_response_id=answers[0].id, tool_choice="none")
        assert client.responses.retrieve(answers[1].id).output_text == answers[1].output_text
        client.responses.delete(answers[1].id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(answers[1].id)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random model whose template has tools."""
    path = tmp_path / "tools.gguf"
    write_tiny_gguf(path, tokenizer="bpe", context=4096, dtype=EXACT, template=TEMPLATE + CHAT_TEMPLATE)
    return path


@pytest.fixture
def twins(model: Path) -> Iterator[tuple[LocalSwarm, dict[str, Process], Proxy]]:
    """A swarm with two nodes for its second half, these by name, and the line of its first half."""
    with (
        LocalSwarm(model, [], serve=[*LOCAL, "--audit", "0"], join=ONE_THREAD) as swarm,
        Proxy(swarm.url).running() as line,
    ):
        swarm.add_node("0-2", url=line.url)
        nodes = {name: swarm.add_node("3-5", "--name", name) for name in ("castor", "pollux")}
        swarm.wait_covered()
        yield swarm, nodes, line


def serving(swarm: LocalSwarm, nodes: dict[str, Process]) -> Process:
    [name] = [node["name"] for node in swarm.status()["nodes"] if node["sessions"] and node["name"] in nodes]
    return nodes[name]


@pytest.mark.parametrize("loop", [by_messages, by_responses])
def test_a_tool_loop_with_a_node_that_dies_is_the_same(
    loop: Loop, twins: tuple[LocalSwarm, dict[str, Process], Proxy]
) -> None:
    swarm, nodes, line = twins
    undisturbed = "".join(loop(swarm.url, False))
    assert undisturbed.startswith("rain: ")
    assert undisturbed.partition("\n")[2]
    assert "".join(loop(swarm.url, True)) == undisturbed
    answer = loop(swarm.url, True)
    head = "".join(islice(answer, BEGUN))
    with line.crawling():
        victim = serving(swarm, nodes)
        victim.popen.kill()
        assert victim.wait() == -signal.SIGKILL
    assert head + "".join(answer) == undisturbed
    swarm.coordinator.wait_for("Others take over its sessions")


def test_tokens_are_counted_as_they_are_used(tiny_swarm: LocalSwarm) -> None:
    with anthropic.Anthropic(base_url=tiny_swarm.url, api_key="none", max_retries=0, timeout=HANG_S) as client:
        options: dict[str, Any] = {"model": "tiny", "system": "Be brief.", "messages": [QUESTION]}
        counted = client.messages.count_tokens(**options).input_tokens
        usage = client.messages.create(**options, max_tokens=1).usage
        assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (counted, 0, 1)
        usage = client.messages.create(**options, max_tokens=1).usage  # it was asked before
        assert (usage.input_tokens, usage.cache_read_input_tokens) == (1, counted - 1)


def test_an_unknown_path_below_messages_is_told_in_anthropics_words(tiny_swarm: LocalSwarm) -> None:
    reply = httpx.post(f"{tiny_swarm.url}/v1/messages/batches", timeout=HANG_S)
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")
