"""OpenAI's responses, by the official client, whole and as its own accumulator puts streams together."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import msgspec
import openai
import pytest

from kit.runner import run
from kit.scripted import Scripted, calls, says
from potluck.coordinator.http.doors import doors, shelf
from potluck.coordinator.http.doors.responses_request import ResponsesRequest
from potluck.coordinator.http.doors.shelf import KEPT_S
from potluck.coordinator.http.parsing import parse
from potluck.errors import Busy, Unavailable

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
RAIN: Any = {"type": "function", "name": "rain", "description": "Asks the weather.", "parameters": CITY}
SNOW: Any = {"type": "function", "name": "snow"}
BASE: dict[str, Any] = {"model": "tiny", "input": "Will it rain in Rome?"}


def with_client(scripted: Scripted, test: Callable[[openai.AsyncOpenAI], Awaitable[Any]], account: str = "ann") -> Any:
    async def body() -> Any:
        async with scripted.http(account) as http:
            client = openai.AsyncOpenAI(api_key="pk-x", base_url="http://potluck/v1", http_client=http, max_retries=0)
            return await test(client)

    return run(body())


def ask(scripted: Scripted, *, stream: bool = False, account: str = "ann", **fields: Any) -> Any:
    """The response as a plain dict."""

    async def test(client: openai.AsyncOpenAI) -> Any:
        if not stream:
            return await client.responses.create(**{**BASE, **fields})
        async with client.responses.stream(**{**BASE, **fields}) as events:
            return await events.get_final_response()

    return with_client(scripted, test, account).to_dict()


def post(scripted: Scripted, body: Any, path: str = "/v1/responses") -> httpx2.Response:
    async def test() -> httpx2.Response:
        async with scripted.http() as http:
            return await http.post(path, json=body)

    return run(test())


@pytest.mark.parametrize("stream", [False, True])
def test_a_text(stream: bool) -> None:
    scripted = Scripted(says("It ", "will."))
    response = ask(scripted, stream=stream, instructions="Be brief.", temperature=0.5, max_output_tokens=50)
    [item] = response["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    [part] = item["content"]
    assert (part["type"], part["text"], part["annotations"]) == ("output_text", "It will.", [])
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "tiny")
    assert response["id"].startswith("resp_")
    assert scripted.prompts == ["[system] Be brief.\n[user] Will it rain in Rome?\n"]
    assert (scripted.jobs[0].params.temperature, scripted.jobs[0].max_tokens) == (0.5, 50)
    assert (response["instructions"], response["max_output_tokens"]) == ("Be brief.", 50)
    prompt = len(scripted.prompts[0])
    usage = response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (prompt, 3, prompt + 3)
    assert usage["input_tokens_details"]["cached_tokens"] == usage["output_tokens_details"]["reasoning_tokens"] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_calls_beside_text(stream: bool) -> None:
    said = "I look. " + calls("rain", '{"city": "Rome"}') + "\n" + calls("snow", "{}")
    scripted = Scripted(says(*(said[at : at + 7] for at in range(0, len(said), 7))))
    message, *made = ask(scripted, stream=stream, tools=[RAIN, SNOW])["output"]
    assert message["content"][0]["text"].strip() == "I look."
    assert [(call["type"], call["name"], call["arguments"], call["status"]) for call in made] == [
        ("function_call", "rain", '{"city": "Rome"}', "completed"),
        ("function_call", "snow", "{}", "completed"),
    ]
    assert all(call["id"].startswith("fc_") and call["call_id"].startswith("call_") for call in made)
    assert "tool rain\ntool snow\n" in scripted.prompts[0]


def test_the_events_of_a_stream() -> None:
    said = ["I ", "look.", calls("rain", '{"city": "Rome"}')]
    scripted = Scripted(says(*said))

    async def test(client: openai.AsyncOpenAI) -> list[Any]:
        return [event async for event in await client.responses.create(**BASE, tools=[RAIN], stream=True)]

    events = with_client(scripted, test)
    assert [event.sequence_number for event in events] == [*range(len(events))]
    kinds = [event.type.removeprefix("response.") for event in events]
    assert [kind for kind in kinds if kind not in ("output_text.delta", "function_call_arguments.delta")] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert ("".join(texts).strip(), len(texts) > 1) == ("I look.", True)
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1]
    items = {event.item_id for event in events if hasattr(event, "item_id")}
    assert items == {item.id for item in events[-1].response.output}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_off_is_incomplete(stream: bool) -> None:
    scripted = Scripted(says("I look. ", '<tool_call>{"name": "rain", "arguments": {"ci', finish="length"))

    async def test(client: openai.AsyncOpenAI) -> Any:
        if not stream:
            return await client.responses.create(**BASE, tools=[RAIN])
        [*_, last] = [event async for event in await client.responses.create(**BASE, tools=[RAIN], stream=True)]
        assert last.type == "response.incomplete"
        return last.response

    response = with_client(scripted, test)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert [item.status for item in response.output] == ["completed", "incomplete"]


HISTORY: list[Any] = [
    {"role": "developer", "content": "Be kind."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Rain?"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
    {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
    },
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "rain", "arguments": '{"city": "Rome"}'},
    {"type": "function_call", "call_id": "call_2", "name": "rain", "arguments": ""},
    {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "No city."}]},
    {"type": "function_call_output", "call_id": "call_1", "output": "No."},
    {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "I may not say."}]},
    {"role": "user", "content": "Well?"},
]
READ = [
    "[system] Be brief.",
    "",
    "Be kind.",
    "[user] Rain?",
    '[assistant] I look. call_1=rain{"city": "Rome"} call_2=rain{}',
    "[tool] No city. for call_2",
    "[tool] No. for call_1",
    "[assistant] I may not say.",
    "[user] Well?",
]


def test_a_history_with_everything_in_it() -> None:
    scripted = Scripted(says("No."))
    ask(scripted, input=HISTORY, instructions="Be brief.")
    assert scripted.prompts[0].splitlines() == READ


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_goes_on_with_the_one_before(stream: bool) -> None:
    scripted = Scripted(says("I look. " + calls("rain", "{}")), says("No."), says("Bye."))
    first = ask(scripted, stream=stream, tools=[RAIN], instructions="Be brief.")
    [call] = [item for item in first["output"] if item["type"] == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call["call_id"], "output": "No."}
    second = ask(scripted, stream=stream, input=[result], previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    ask(scripted, stream=stream, input="Thanks!", previous_response_id=second["id"], instructions="Be kind.")
    assert scripted.prompts[2].splitlines() == [
        "[system] Be kind.",  # instructions are not carried over
        "[user] Will it rain in Rome?",
        f"[assistant] I look. {' ' if stream else ''}{call['call_id']}=rain{{}}",
        f"[tool] No. for {call['call_id']}",
        "[assistant] No.",
        "[user] Thanks!",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_goes_on_after_a_call_that_was_cut_off(stream: bool) -> None:
    scripted = Scripted(says('<tool_call>{"name": "rain", "arguments": {"ci', finish="length"), says("No."))

    async def test(client: openai.AsyncOpenAI) -> Any:
        return await client.responses.create(**BASE, tools=[RAIN])

    first = with_client(scripted, test)
    [call] = first.output
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Again?"}
    ask(scripted, stream=stream, input=[result], previous_response_id=first.id)
    assert scripted.prompts[1].splitlines()[1:] == [
        f'[assistant]  {call.call_id}=rain{{"raw_arguments": "{{\\"ci"}}',
        f"[tool] Again? for {call.call_id}",
    ]


def test_a_response_is_kept_for_its_account_and_for_a_while() -> None:
    scripted = Scripted(*[says("Yes.")] * 3)
    identity = ask(scripted)["id"]

    async def get(client: openai.AsyncOpenAI) -> Any:
        return await client.responses.retrieve(identity)

    async def delete(client: openai.AsyncOpenAI) -> Any:
        await client.responses.delete(identity)

    assert with_client(scripted, get).output_text == "Yes."
    for account in ("bob", ""):
        for request in (get, delete):
            with pytest.raises(openai.NotFoundError):
                with_client(scripted, request, account)
        with pytest.raises(openai.NotFoundError) as caught:
            ask(scripted, account=account, previous_response_id=identity)
        assert caught.value.param == "previous_response_id"
    with_client(scripted, delete)
    for request in (get, delete):
        with pytest.raises(openai.NotFoundError):
            with_client(scripted, request)
    identity = ask(scripted)["id"]
    scripted.now = KEPT_S
    with pytest.raises(openai.NotFoundError):
        with_client(scripted, get)


def test_a_response_that_is_not_to_be_stored_is_not_kept() -> None:
    scripted = Scripted(says("Yes."))
    response = ask(scripted, store=False)
    assert response["store"] is False
    with pytest.raises(openai.NotFoundError):
        ask(scripted, previous_response_id=response["id"])


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_is_too_large_to_be_kept_says_so(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    scripted = Scripted(says("Yes."), says("Y" * 100))
    small = ask(scripted, stream=stream)
    assert small["store"] is True
    monkeypatch.setattr(shelf, "MOST_OF_ONE", scripted_size(scripted, small["id"]) + 50)
    large = ask(scripted, stream=stream)
    assert large["store"] is False
    with pytest.raises(openai.NotFoundError):
        ask(scripted, previous_response_id=large["id"])


def scripted_size(scripted: Scripted, identity: str) -> int:
    """The bytes of a response that is kept, with the messages before it."""

    async def get(client: openai.AsyncOpenAI) -> bytes:
        return (await client.responses.with_raw_response.retrieve(identity)).content

    return len(with_client(scripted, get)) + len(msgspec.json.encode([{"role": "user", "content": BASE["input"]}]))


def test_what_a_response_repeats_of_its_request_is_held_as_json() -> None:
    body = {**BASE, "tools": [RAIN], "metadata": {"a": "b"}, "text": {"format": {"type": "text"}}}
    asked = parse(msgspec.json.encode(body), ResponsesRequest)
    assert {type(value) for value in asked.echo().values()} == {msgspec.Raw}
    response = ask(Scripted(says("No.")), tools=[RAIN], metadata={"a": "b"})
    assert ([tool["name"] for tool in response["tools"]], response["metadata"]) == (["rain"], {"a": "b"})


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens"])
def test_a_request_is_translated_outside_the_event_loop(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    threads, translated = [], doors._chat_of

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return translated(*given)

    monkeypatch.setattr(doors, "_chat_of", noted)
    body = {"model": "tiny", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    assert post(Scripted(says("No.")), body, path).status_code == 200
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


@pytest.mark.parametrize(
    ("choice", "shown", "demanded"),
    [
        ("auto", "tool rain\ntool snow\n", False),
        ("none", "", False),
        ("required", "tool rain\ntool snow\n", True),
        ({"type": "function", "name": "rain"}, "tool rain\ntool snow\n", True),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "snow"}]},
            "tool snow\n",
            False,
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "snow"}]},
            "tool snow\n",
            True,
        ),
    ],
)
def test_which_tools_may_be_called(choice: Any, shown: str, demanded: bool) -> None:
    scripted = Scripted(says(calls("rain", "{}")))
    ask(scripted, tools=[RAIN, SNOW], tool_choice=choice)
    assert scripted.prompts[0] == f"[user] Will it rain in Rome?\n{shown}"
    assert (scripted.jobs[0].grammar is not None) is demanded


def test_the_form_of_an_answer_and_one_call_at_most() -> None:
    scripted = Scripted(says("{}"), says("{}"), says("Yes."))
    form: Any = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    response = ask(scripted, text={"format": form, "verbosity": "low"})
    assert response["text"]["format"] == form
    ask(scripted, text={"format": {"type": "json_object"}})
    ask(scripted, text={"format": {"type": "text"}}, tools=[RAIN], parallel_tool_calls=False)
    assert [job.grammar is not None for job in scripted.jobs] == [True, True, False]
    assert [job.watch is not None for job in scripted.jobs] == [False, False, True]  # the only call ends the answer


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a picture": ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    "a file": (
        {
            "input": [
                HISTORY[1],
                {"role": "user", "content": [{"type": "input_text", "text": ""}, {"type": "input_file"}]},
            ]
        },
        "input[1].content[1]",
    ),
    "a picture as a result": (
        {"input": [{"type": "function_call_output", "call_id": "x", "output": [{"type": "input_image"}]}]},
        "input[0].output[0]",
    ),
    "a search": ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]"),
    "a reference": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    "a strange role": ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    "content that is none": ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
    "a result of nothing": ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    "no input": ({"input": []}, "input"),
    "a hosted tool": ({"tools": [RAIN, {"type": "web_search"}]}, "tools[1]"),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools[0].name"),
    "a choice of a hosted tool": ({"tools": [RAIN], "tool_choice": {"type": "file_search"}}, "tool_choice"),
    "another's name": ({"tools": [RAIN], "tool_choice": {"type": "function", "name": "hail"}}, "tool_choice"),
    "background": ({"background": True}, "background"),
    "a conversation": ({"conversation": "conv_1"}, "conversation"),
    "a template": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "truncation": ({"truncation": "auto"}, "truncation"),
    "compaction": ({"context_management": [{"type": "compaction"}]}, "context_management"),
    "moderation": ({"moderation": {"model": "x"}}, "moderation"),
    "probabilities": ({"top_logprobs": 3}, "top_logprobs"),
    "too much metadata": ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    "metadata of long names": ({"metadata": {"a" * 65: "x"}}, "metadata"),
    "long metadata": ({"metadata": {"a": "x" * 513}}, "metadata"),
    "metadata that are no texts": ({"metadata": {"a": {"b": "c"}}}, "metadata"),
    "included probabilities": ({"include": ["message.output_text.logprobs"]}, "include"),
    "a schema that cannot be kept to": (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"$ref": "#/no"}}}},
        "text",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_how(case: str) -> None:
    fields, param = REFUSED[case]
    reply = post(Scripted(), {**BASE, **fields})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].endswith(".")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"truncation": "auto"}, "truncation auto is not supported: send the history as the model is to read it."),
        ({"include": ["x"]}, "include asks for 'x', which responses here do not contain."),
        (
            {"metadata": {"a": []}},
            "metadata may have up to 16 texts of up to 512 characters, under names of up to 64.",
        ),
    ],
)
def test_a_refusal_is_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    assert post(Scripted(), {**BASE, **fields}).json()["error"]["message"] == sentence


def test_metadata_may_be_as_large_as_openais() -> None:
    metadata = {f"{number:0>64}": "é" * 512 for number in range(16)}
    reply = post(Scripted(says("Yes.")), {**BASE, "metadata": metadata})
    assert (reply.status_code, reply.json()["metadata"]) == (200, metadata)


def test_hints_are_ignored() -> None:
    hints = {
        "metadata": {"a": "b"},
        "user": "x",
        "safety_identifier": "x",
        "prompt_cache_key": "x",
        "prompt_cache_retention": "24h",
        "stream_options": {"include_obfuscation": False},
        "max_tool_calls": 3,
        "include": ["reasoning.encrypted_content"],
        "truncation": "disabled",
        "background": False,
        "top_logprobs": 0,
        "reasoning": {"effort": None, "summary": "auto"},
    }
    reply = post(Scripted(says("Yes.")), {**BASE, **hints})
    assert (reply.status_code, reply.json()["metadata"]) == (200, {"a": "b"})


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (Unavailable("Nobody is here."), openai.InternalServerError, "server_error"),
        (Busy("Full."), openai.RateLimitError, "rate_limit_exceeded"),
    ],
)
def test_an_answer_that_breaks_off(error: Exception, kind: type[Exception], code: str) -> None:
    with pytest.raises(kind):
        ask(Scripted([error]))
    scripted = Scripted([*says("It ", "will.")[:2], error])

    async def test(client: openai.AsyncOpenAI) -> list[Any]:
        return [event async for event in await client.responses.create(**BASE, stream=True)]

    *_, told, failed = with_client(scripted, test)
    assert (told.type, told.code, told.message) == ("error", code, str(error))
    assert failed.type == "response.failed"
    assert (failed.response.status, failed.response.error.code) == ("failed", code)
    assert failed.response.store is False
    assert (failed.sequence_number, failed.response.error.message) == (told.sequence_number + 1, str(error))
    with pytest.raises(openai.NotFoundError):  # what failed is not kept
        ask(scripted, previous_response_id=failed.response.id)


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_items_of_their_own(stream: bool) -> None:
    scripted = Scripted(says("<think>", "Hm", ".</th", "ink>\n\nYes."), says("No."))
    first = ask(scripted, stream=stream, reasoning={"effort": "low"})
    thought, message = first["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "Hm.")
    assert message["content"][0]["text"] == "Yes."
    assert first["reasoning"]["effort"] == "low"
    assert first["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    assert scripted.prompts[0].endswith("thinks: True\n")
    ask(scripted, stream=stream, input="And now?", previous_response_id=first["id"])
    assert scripted.prompts[1].splitlines()[1:] == ["[assistant] Yes.", "[user] And now?"]
