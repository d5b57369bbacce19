"""Anthropic's messages, by the official client, whole and as its own accumulator puts streams together."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx2
import pytest

from kit.runner import run
from kit.scripted import Scripted, calls, says
from potluck.coordinator.http.doors.messages_request import CountRequest
from potluck.coordinator.http.doors.responses_request import ResponsesRequest
from potluck.coordinator.http.requests import Common
from potluck.errors import Busy, Unavailable

QUESTION = {"role": "user", "content": "Will it rain in Rome?"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
RAIN = {"name": "rain", "description": "Asks the weather.", "input_schema": CITY}
BASE: dict[str, Any] = {"model": "tiny", "max_tokens": 50, "messages": [QUESTION]}


def with_client(scripted: Scripted, test: Callable[[anthropic.AsyncAnthropic], Awaitable[Any]]) -> Any:
    async def body() -> Any:
        async with scripted.http() as http:
            client = anthropic.AsyncAnthropic(
                api_key="pk-x", base_url="http://potluck", http_client=http, max_retries=0
            )
            return await test(client)

    return run(body())


def ask(scripted: Scripted, *, stream: bool, **fields: Any) -> Any:
    """The message as a plain dict."""

    async def test(client: anthropic.AsyncAnthropic) -> Any:
        if not stream:
            return await client.messages.create(**{**BASE, **fields})
        async with client.messages.stream(**{**BASE, **fields}) as events:
            return await events.get_final_message()

    message = with_client(scripted, test)
    return message.to_dict()


def post(scripted: Scripted, path: str, body: Any, **headers: str) -> httpx2.Response:
    async def test() -> httpx2.Response:
        async with scripted.http() as http:
            return await http.post(path, json=body, headers=headers)

    return run(test())


@pytest.mark.parametrize("stream", [False, True])
def test_a_text(stream: bool) -> None:
    scripted = Scripted(says("It ", "will."))
    message = ask(scripted, stream=stream, system="Be brief.", extra_body={"temperature": 0.5, "top_k": 5})
    assert message["content"] == [{"type": "text", "text": "It will."}]
    assert (message["role"], message["model"], message["stop_reason"]) == ("assistant", "tiny", "end_turn")
    assert message["id"].startswith("msg_")
    assert scripted.prompts == ["[system] Be brief.\n[user] Will it rain in Rome?\n"]
    assert (scripted.jobs[0].params.temperature, scripted.jobs[0].params.top_k) == (0.5, 5)
    assert scripted.jobs[0].max_tokens == 50
    usage = message["usage"]
    assert usage["input_tokens"] == len(scripted.prompts[0])
    assert (usage["output_tokens"], usage["cache_read_input_tokens"]) == (3, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_calls_beside_text(stream: bool) -> None:
    said = "I look. " + calls("rain", '{"city": "Rome"}') + "\n" + calls("rain", '{"city": "Oslo"}')
    scripted = Scripted(says(*(said[at : at + 7] for at in range(0, len(said), 7))))
    message = ask(scripted, stream=stream, tools=[RAIN])
    text, *uses = message["content"]
    assert (text["type"], text["text"].strip()) == ("text", "I look.")
    assert [(use["type"], use["name"], use["input"]) for use in uses] == [
        ("tool_use", "rain", {"city": "Rome"}),
        ("tool_use", "rain", {"city": "Oslo"}),
    ]
    assert all(use["id"].startswith("toolu_") for use in uses)
    assert len({use["id"] for use in uses}) == 2
    assert message["stop_reason"] == "tool_use"
    assert "tool rain\n" in scripted.prompts[0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_without_arguments_has_an_empty_input(stream: bool) -> None:
    [use] = ask(Scripted(says(calls("rain", "{}"))), stream=stream, tools=[RAIN])["content"]
    assert use["input"] == {}


@pytest.mark.parametrize(
    ("choice", "ends", "shown"),
    [
        ({"type": "auto"}, False, True),
        ({"type": "auto", "disable_parallel_tool_use": True}, True, True),
        ({"type": "none"}, False, False),
    ],
)
def test_which_tools_may_be_called(choice: dict[str, Any], ends: bool, shown: bool) -> None:
    scripted = Scripted(says("Yes."))
    ask(scripted, stream=False, tools=[RAIN], tool_choice=choice)
    assert (scripted.jobs[0].watch is not None) is ends
    assert ("tool rain" in scripted.prompts[0]) is shown


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "rain"}])
def test_a_call_can_be_demanded(choice: dict[str, Any]) -> None:
    scripted = Scripted(says(calls("rain", '{"city": "Rome"}')))
    ask(scripted, stream=False, tools=[RAIN], tool_choice=choice)
    assert scripted.jobs[0].grammar is not None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("script", "reason", "sequence"),
    [
        (says("Yes."), "end_turn", None),
        (says("Yes.", finish="length"), "max_tokens", None),
        (says("Yes.", stopped="\n"), "stop_sequence", "\n"),
        (says("Yes.", stopped="</tool_call>"), "end_turn", None),  # our own stop string, not the client's
    ],
)
def test_why_an_answer_ends(stream: bool, script: Any, reason: str, sequence: str | None) -> None:
    scripted = Scripted(script)
    message = ask(scripted, stream=stream, stop_sequences=["\n", "END"])
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
    assert scripted.jobs[0].stops == ("\n", "END")


def test_a_call_that_is_cut_off_has_no_input() -> None:
    scripted = Scripted(says('<tool_call>{"name": "rain", "arguments": {"city": "Ro', finish="length"))
    message = ask(scripted, stream=False, tools=[RAIN])
    assert (message["stop_reason"], message["content"][0]["input"]) == ("max_tokens", {})


HISTORY: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "Rain?", "cache_control": {"type": "ephemeral"}}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "rain", "input": {"city": "Rome"}},
            {"type": "tool_use", "id": "toolu_2", "name": "rain", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True, "content": "No city."},
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "No."}]},
            {"type": "text", "text": "Well?"},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A note."}},
        ],
    },
    {"role": "user", "content": "Quick!"},
]


def test_a_history_with_everything_in_it() -> None:
    scripted = Scripted(says("No."))
    ask(scripted, stream=False, messages=HISTORY, system=[{"type": "text", "text": "A"}, {"type": "text", "text": "B"}])
    assert scripted.prompts[0].splitlines() == [
        "[system] A",
        "B",
        "[user] Rain?",
        '[assistant] I look. toolu_1=rain{"city": "Rome"} toolu_2=rain{}',
        "[tool] Error: No city. for toolu_2",
        "[tool] No. for toolu_1",
        "[user] Well?",
        "A note.",
        "",
        "Quick!",
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_results_come_before_what_is_said_beside_them(order: int) -> None:
    result = {"type": "tool_result", "tool_use_id": "toolu_1"}
    blocks = [result, {"type": "text", "text": "Well?"}][::order]
    scripted = Scripted(says("No."))
    ask(scripted, stream=False, messages=[*HISTORY[:2], {"role": "user", "content": blocks}])
    assert scripted.prompts[0].splitlines()[-2:] == ["[tool]  for toolu_1", "[user] Well?"]


@pytest.mark.parametrize(
    ("thinking", "told"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "thinks: True\n"),
        ({"type": "adaptive"}, "thinks: True\n"),
        ({"type": "disabled"}, "thinks: False\n"),
        (None, "Rome?\n"),
    ],
)
def test_whether_the_model_is_to_think(thinking: Any, told: str) -> None:
    scripted = Scripted(says("No."))
    assert post(scripted, "/v1/messages", {**BASE, "thinking": thinking}).status_code == 200
    assert scripted.prompts[0].endswith(told)


def test_a_form_of_the_answer() -> None:
    scripted = Scripted(says("{}"), says("{}"))
    form = {"type": "json_schema", "schema": CITY}
    ask(scripted, stream=False, output_config={"format": form, "effort": "low"})
    post(scripted, "/v1/messages", {**BASE, "output_format": form})  # as it was called at first
    assert all(job.grammar is not None for job in scripted.jobs)


def test_tokens_are_counted() -> None:
    scripted = Scripted(says("No."))

    async def test(client: anthropic.AsyncAnthropic) -> tuple[int, int]:
        options: Any = {"model": "tiny", "system": "Be brief.", "messages": [QUESTION], "tools": [RAIN]}
        counted = await client.messages.count_tokens(**options)
        answered = await client.messages.create(**options, max_tokens=5)
        return counted.input_tokens, answered.usage.input_tokens

    counted, used = with_client(scripted, test)
    assert counted == used == len(scripted.prompts[0])


def test_tokens_are_counted_where_they_do_not_fit() -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 5000}]}
    reply = post(Scripted(), "/v1/messages/count_tokens", body)
    assert reply.json() == {"input_tokens": len("[user] \n") + 5000}
    reply = post(Scripted(), "/v1/messages", body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a picture": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "image"}]}]},
        "messages[0].content[1]",
    ),
    "a PDF": (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
        "messages[0].content[0]",
    ),
    "a picture as a result": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "image"}]}],
                }
            ]
        },
        "messages[0].content[0].content[0]",
    ),
    "what Anthropic ran": (
        {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
        "messages[0].content[0]",
    ),
    "a result of nothing": (
        {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
        "messages[0].content[0].tool_use_id",
    ),
    "a block that is none": ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
    "content that is none": ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    "a strange role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    "no messages": ({"messages": []}, "messages"),
    "a server's tool": ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
    "a tool without a schema": ({"tools": [RAIN, {"type": "bash_20250124", "name": "bash"}]}, "tools[1]"),
    "MCP": ({"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}, "mcp_servers"),
    "a container": ({"container": "x"}, "container"),
    "a place": ({"inference_geo": "eu"}, "inference_geo"),
    "edits": ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
    "no schema": ({"output_config": {"format": {"type": "json_schema"}}}, "output_config"),
    "a schema that cannot be kept to": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"$ref": "#/no"}}}},
        "output_config",
    ),
    "no name": ({"tools": [RAIN], "tool_choice": {"type": "tool"}}, "tool_choice"),
    "another's name": ({"tools": [RAIN], "tool_choice": {"type": "tool", "name": "snow"}}, "tool_choice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_how(case: str) -> None:
    fields, param = REFUSED[case]
    reply = post(Scripted(), "/v1/messages", {**BASE, **fields})
    told = reply.json()
    assert reply.status_code == 400
    assert told["type"] == "error"
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["param"] == param
    assert told["error"]["message"].endswith(".")


def test_mcp_servers_are_not_called() -> None:
    reply = post(Scripted(), "/v1/messages", {**BASE, "mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]})
    assert reply.json()["error"]["message"] == "MCP servers are not called from here: offer their tools as tools."


def test_hints_are_ignored() -> None:
    hints: dict[str, Any] = {
        "metadata": {"user_id": "x"},
        "cache_control": {"type": "ephemeral"},
        "service_tier": "auto",
        "speed": "fast",
        "diagnostics": {"previous_message_id": None},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "mcp_servers": [],
        "container": None,
    }
    assert post(Scripted(says("Yes.")), "/v1/messages", {**BASE, **hints}).status_code == 200


@pytest.mark.parametrize(
    ("error", "kind"),
    [(Unavailable("Nobody is here."), anthropic.InternalServerError), (Busy("Full."), anthropic.RateLimitError)],
)
def test_the_swarms_errors_are_the_clients_own(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        ask(Scripted([error]), stream=False)
    assert str(error) in str(caught.value)


def test_what_does_not_exist_is_told_in_anthropics_words() -> None:
    with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
        ask(Scripted(), stream=False, model="another")
    reply = post(Scripted(), "/v1/messages/nothing", {})
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found_error")


def test_a_stream_that_breaks_off_ends_with_an_error() -> None:
    broken = [*says("It ")[:1], Unavailable("All nodes are gone.")]
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        ask(Scripted(broken), stream=True)
    reply = post(Scripted(broken), "/v1/messages", BASE)
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "overloaded_error")


def test_the_events_of_a_stream() -> None:
    reply = post(Scripted(says("It ", "will.")), "/v1/messages", {**BASE, "stream": True})
    names = [line.removeprefix("event: ") for line in reply.text.splitlines() if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 2,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_nothing_of_a_body_is_held_while_it_is_answered(path: str, stream: bool) -> None:
    held: list[Any] = []

    def look() -> None:
        gc.collect()
        held.extend(one for one in gc.get_objects() if isinstance(one, CountRequest | ResponsesRequest | Common))

    scripted = Scripted([look, *says("Yes.")])
    assert post(scripted, path, {**BASE, "input": "Hi!", "stream": stream}).status_code == 200
    assert len(scripted.jobs) == 1
    assert held == []


def test_what_an_agent_sends() -> None:
    """The shape of a request of Claude Code."""
    cached = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": "tiny",
        "max_tokens": 32000,
        "stream": True,
        "system": [{"type": "text", "text": "You are an agent."}, {"type": "text", "text": "Be brief.", **cached}],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "<reminder>"}, {"type": "text", "text": "Rain?", **cached}],
            }
        ],
        "tools": [{**RAIN, "input_schema": {"$schema": "http://json-schema.org/draft-07/schema#", **CITY}, **cached}],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "max"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "metadata": {"user_id": "x"},
    }
    scripted = Scripted(says("Yes."))
    reply = post(scripted, "/v1/messages?beta=true", body, **{"anthropic-beta": "x", "anthropic-version": "2023-06-01"})
    assert reply.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert scripted.prompts[0].splitlines()[:4] == [
        "[system] You are an agent.",
        "Be brief.",
        "[user] <reminder>",
        "Rain?",
    ]


def test_the_models_are_listed_for_anthropics_client_as_well() -> None:
    async def test(client: anthropic.AsyncAnthropic) -> list[str]:
        return [model.id async for model in client.models.list()]

    assert with_client(Scripted(), test) == ["tiny"]


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_blocks_of_their_own(stream: bool) -> None:
    message = ask(Scripted(says("<think>", "Hm", ".</th", "ink>\n\nYes.")), stream=stream)
    thought, text = message["content"]
    assert (thought["type"], thought["thinking"], thought["signature"]) == ("thinking", "Hm.", "unsigned")
    assert (text["type"], text["text"]) == ("text", "Yes.")
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] > 0


def test_a_last_message_of_the_assistant_is_continued() -> None:
    scripted = Scripted(says("will."))
    message = ask(scripted, stream=False, messages=[QUESTION, {"role": "assistant", "content": "It "}])
    assert scripted.prompts == ["[user] Will it rain in Rome?\n[assistant] It "]
    assert message["content"][0]["text"] == "will."
