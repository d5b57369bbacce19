"""Requests as other people's programs send them, replayed to SmolLM2 on three nodes: each gets a sound answer.

Most were written down while the program ran, with its long texts shortened: openai-node 6.49.0, the Vercel AI SDK
6.0.326 (`@ai-sdk/openai` and `@ai-sdk/openai-compatible`), LangChain.js 1.5.8, the OpenAI Agents SDK 0.24.0 and its
JavaScript 0.20.0, Pydantic AI 2.68.0, smolagents 1.26.0, AutoGen 0.7.5, Semantic Kernel 1.45.0, Instructor 1.17.0,
CrewAI 1.15.30, aider 0.86.2 and Codex CLI 0.171.0. The others follow the sources of the programs:

* SillyTavern: `src/endpoints/backends/chat-completions.js`, `public/scripts/textgen-settings.js`, `src/constants.js`
* Continue: `core/llm/openaiTypeConverters.ts`
* Open WebUI: `backend/open_webui/utils/payload.py`
* Zed: `crates/open_ai/src/open_ai.rs`
* Claude Code: no recording; requests with the fields that it is known to send
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from potluck.local import HANG_S, LocalSwarm

RECORDED = Path(__file__).parents[1] / "data" / "clients"
MOST_TOKENS = 60
"""Of an answer whose request sets no limit, as many clients' do: a small model may talk on."""


def recorded() -> list[Any]:
    """All requests, each with the name of its client and its number."""
    files = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(RECORDED.glob("*.json"))}
    return [
        pytest.param(request["path"], request["body"], id=f"{client}-{number}")
        for client, requests in files.items()
        for number, request in enumerate(requests)
    ]


def limited(path: str, body: dict[str, Any]) -> dict[str, Any]:
    if "max_tokens" in body or "max_completion_tokens" in body or "count_tokens" in path:
        return body
    return {**body, "max_output_tokens" if path == "/responses" else "max_tokens": MOST_TOKENS}


@pytest.mark.parametrize(("path", "body"), recorded())
def test_a_recorded_request_is_answered(path: str, body: dict[str, Any], tool_swarm: LocalSwarm) -> None:
    model = tool_swarm.status()["model"]
    reply = httpx.post(f"{tool_swarm.url}/v1{path}", json={**limited(path, body), "model": model}, timeout=HANG_S)
    assert reply.status_code == 200, reply.text
    streams = body.get("stream") is True
    assert reply.headers["content-type"].startswith("text/event-stream" if streams else "application/json")
    check = {"/chat/completions": check_chat, "/completions": check_text, "/responses": check_response}
    check.get(path, check_message)(reply, body)


def chunks_of(reply: httpx.Response) -> list[Any]:
    """What the events of a stream hold, without the one that ends it."""
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def check_chat(reply: httpx.Response, body: dict[str, Any]) -> None:
    text, calls, reasons = "", [], []
    for part in chunks_of(reply) if body.get("stream") else [reply.json()]:
        assert "error" not in part
        for choice in part["choices"]:
            said = choice["delta" if body.get("stream") else "message"]
            text += said.get("content") or ""
            calls += [call["function"]["name"] for call in said.get("tool_calls") or [] if call["function"].get("name")]
            reasons.append(choice["finish_reason"])
    assert reasons[-1] in ("stop", "length", "tool_calls")
    assert text or calls
    assert (reasons[-1] == "tool_calls") <= bool(calls)
    assert set(calls) <= {tool["function"]["name"] for tool in body.get("tools") or []}
    if body.get("response_format") and reasons[-1] == "stop":
        assert isinstance(json.loads(text), dict)
    assert not body.get("stream") or reply.text.endswith("data: [DONE]\n\n")


def check_text(reply: httpx.Response, body: dict[str, Any]) -> None:
    parts = chunks_of(reply) if body.get("stream") else [reply.json()]
    choices = [choice for part in parts for choice in part["choices"]]
    text = "".join(choice["text"] for choice in choices)
    assert choices[-1]["finish_reason"] in ("stop", "length")
    assert not any(stop in text for stop in body.get("stop") or [])


def check_response(reply: httpx.Response, body: dict[str, Any]) -> None:
    whole = chunks_of(reply)[-1]["response"] if body.get("stream") else reply.json()
    assert whole["status"] in ("completed", "incomplete")
    assert whole["output"]
    assert whole["usage"]["output_tokens"] > 0


def check_message(reply: httpx.Response, body: dict[str, Any]) -> None:
    if body.get("stream"):
        kinds = [part["type"] for part in chunks_of(reply)]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
        assert "content_block_delta" in kinds
    else:
        told = reply.json()
        assert told["input_tokens"] > 0 if "input_tokens" in told else told["content"]
