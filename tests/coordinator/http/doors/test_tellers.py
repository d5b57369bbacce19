"""How chunks become events, with chunks made by hand: thoughts, silence, and what comes in turns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.scripted import Bytes, calls
from potluck.coordinator.generation.job import Delta
from potluck.coordinator.http.doors.messages_answer import MessageTeller
from potluck.coordinator.http.doors.responses_answer import ResponseTeller
from potluck.coordinator.http.doors.teller import Called, Said, Thought, pieces
from potluck.coordinator.http.identities import Identities
from potluck.coordinator.http.replies import ChatForm, Json, Usage
from potluck.coordinator.text.calls.registry import Offer, dialect_named
from potluck.errors import Unavailable


class ThinkingUsage(Usage):
    """A usage that counts thoughts."""

    def json(self) -> Json:
        return {**super().json(), "completion_tokens_details": {"reasoning_tokens": 2}}


def usage() -> Usage:
    counted = ThinkingUsage(9)
    counted.count(Delta(cached=4))
    return counted


def message_teller() -> MessageTeller:
    return MessageTeller("tiny", (), usage(), Identities.fresh())


kept: list[Json] = []


def keep(response: Json) -> bool:
    kept.append(response)
    return True


def response_teller() -> ResponseTeller:
    return ResponseTeller("tiny", {"store": True}, usage(), Identities.fresh(), keep)


def chunk(finish: str | None = None, **delta: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(index: int, arguments: str, name: str = "") -> Json:
    head = {"id": f"call_{index}", "type": "function"} if name else {}
    return {"index": index, **head, "function": {**({"name": name} if name else {}), "arguments": arguments}}


CHUNKS = [
    chunk(role="assistant", content=""),
    chunk(reasoning_content="I "),
    chunk(reasoning_content="muse.", content="Let me "),
    chunk(content="look.", tool_calls=[call(0, "{", "rain"), call(0, "}")]),
    chunk(tool_calls=[call(1, '{"a"', "snow")]),
    chunk(tool_calls=[call(1, ":1}")]),
    chunk(finish="tool_calls"),
    {"choices": [], "usage": {}},
]
WHOLE = {
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "reasoning_content": "I muse.",
                "content": "Let me look.",
                "tool_calls": [call(0, "{}", "rain"), call(1, '{"a":1}', "snow")],
            },
        }
    ]
}


def events_of(sent: bytes) -> list[Any]:
    """The events, each of which is named as its data are."""
    events = []
    for event in sent.decode().split("\n\n")[:-1]:
        if not event.startswith(":"):
            name, _, data = event.removeprefix("event: ").partition("\ndata: ")
            events.append(json.loads(data))
            assert events[-1]["type"] == name
    return events


def streamed(teller: Any) -> list[Any]:
    return events_of(b"".join([*map(teller.chunk, CHUNKS), teller.end()]))


def test_the_pieces_of_a_delta_come_in_the_order_in_which_they_are_written() -> None:
    delta = {"tool_calls": [call(1, "{", "rain")], "content": "b", "reasoning_content": "a"}
    assert [*pieces(delta)] == [Thought("a"), Said("b"), Called(1, "call_1", "rain", "{")]
    assert [*pieces({"content": None, "tool_calls": None, "reasoning_content": None})] == []
    delta = {"tool_calls": [call(0, "}"), call(1, "{", "snow")], "content": "b", "reasoning_content": "a"}
    assert [*pieces(delta)] == [Called(0, "", "", "}"), Thought("a"), Said("b"), Called(1, "call_1", "snow", "{")]


def test_a_message_is_the_same_whole_and_streamed() -> None:
    blocks: list[Any] = []
    *_, last, stop = events = streamed(message_teller())
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"]})
            case "content_block_delta":
                assert event["index"] == len(blocks) - 1
                kind, delta = event["delta"].pop("type"), event["delta"]
                [(name, text)] = delta.items()
                if kind == "input_json_delta":
                    blocks[-1]["json"] = blocks[-1].get("json", "") + text
                else:
                    blocks[-1][name] += text
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json"))
    whole = message_teller().whole(WHOLE)
    assert blocks == whole["content"]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert blocks[0] == {"type": "thinking", "thinking": "I muse.", "signature": "unsigned"}
    assert blocks[2] == {"type": "tool_use", "id": "toolu_0", "name": "rain", "input": {}}
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert last["usage"] == whole["usage"]
    assert (whole["usage"]["input_tokens"], whole["usage"]["cache_read_input_tokens"]) == (5, 4)
    assert whole["usage"]["output_tokens_details"] == {"thinking_tokens": 2}
    assert stop == {"type": "message_stop"}


OFFER = Offer({"rain": {}, "snow": {}}, dialect_named("llama"))
LLAMA = '{"name": "rain", "parameters": {"a": {"b": "}"}}}'
PARTS = st.sampled_from(["Well. ", " and\n", "\n", ";", "{", LLAMA, calls("snow", '{"c": "é"}'), calls("rain", "{}")])
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def recut(said: str, cuts: list[int]) -> tuple[list[Json], Json]:
    """An answer in pieces of these lengths: the chunks of its stream, and the whole answer."""
    deltas, at = [], 0
    for cut in [*cuts, len(said)]:
        deltas.append(Delta(said[at : at + cut]))
        at += cut
    deltas.append(Delta(finish="stop"))
    form, other = (ChatForm("tiny", Bytes(), False, OFFER) for _ in range(2))
    return [{"choices": [form.chunk(0, one)]} for one in deltas], {"choices": [other.choice(0, deltas)]}


def told(teller: Any, chunks: list[Json]) -> list[Any]:
    return events_of(b"".join([*map(teller.chunk, chunks), teller.end()]))


def blocks_of(events: list[Any]) -> list[tuple[str, str]]:
    """The name of each call, "" for a text, and what was streamed of it."""
    blocks: dict[int, tuple[str, str]] = {}
    for event in events:
        if event["type"] == "content_block_start":
            block = event["content_block"]
            assert block["type"] == "text" or block["id"].removeprefix("toolu_")
            blocks[event["index"]] = (block.get("name", ""), "")
        elif event["type"] == "content_block_delta":
            name, text = blocks[event["index"]]
            blocks[event["index"]] = (name, text + event["delta"].get("text", event["delta"].get("partial_json")))
    return [*blocks.values()]


def items_of(response: Json) -> list[tuple[str, str]]:
    """The name of each call, "" for a text, and its content."""
    return [
        (item["name"], item["arguments"]) if item["type"] == "function_call" else ("", item["content"][0]["text"])
        for item in response["output"]
    ]


def content(items: list[tuple[str, str]]) -> tuple[str, list[tuple[str, Any]]]:
    """All text, and the calls with their arguments."""
    made = [(name, json.loads(text)) for name, text in items if name]
    return "".join(text for name, text in items if not name).strip(), made


@given(st.lists(PARTS, min_size=1, max_size=6).map("".join), CUTS)
def test_however_an_answer_is_cut_its_stream_has_the_content_of_the_whole(said: str, cuts: list[int]) -> None:
    chunks, whole = recut(said, cuts)
    expected = content(items_of(response_teller().whole(whole)))
    *_, last = told(response_teller(), chunks)
    assert content(items_of(last["response"])) == expected
    teller = message_teller()
    assert content(blocks_of(told(teller, chunks))) == expected
    inputs = [(block["name"], block["input"]) for block in teller.told()["content"] if block["type"] == "tool_use"]
    assert inputs == expected[1]


def test_a_delta_that_ends_a_call_and_begins_a_text_tears_neither() -> None:
    said = ['{"name": "rain", "parameters": {"a": 1', "}} foo"]
    chunks, _ = recut("".join(said), [len(said[0])])
    assert blocks_of(told(message_teller(), chunks)) == [("rain", '{"a": 1}'), ("", "foo")]


def test_only_a_stream_shows_where_text_stood_among_calls() -> None:
    chunks, whole = recut(LLAMA + "and" + calls("snow", "{}"), [len(LLAMA), 3])
    assert [name for name, _ in items_of(told(response_teller(), chunks)[-1]["response"])] == ["rain", "", "snow"]
    assert [name for name, _ in items_of(response_teller().whole(whole))] == ["", "rain", "snow"]


def without_names(value: Any) -> Any:
    """A response without the ids that are made up, and its time."""
    if isinstance(value, dict):
        return {name: without_names(one) for name, one in value.items() if name not in ("id", "created_at")}
    return [without_names(one) for one in value] if isinstance(value, list) else value


def test_a_response_is_the_same_whole_and_streamed() -> None:
    kept.clear()
    *events, last = streamed(response_teller())
    whole = response_teller().whole(WHOLE)
    assert last["type"] == "response.completed"
    assert without_names(last["response"]) == without_names(whole)
    assert kept == [last["response"], whole]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "function_call"]
    thought = whole["output"][0]
    assert (thought["content"], thought["summary"]) == ([{"type": "reasoning_text", "text": "I muse."}], [])
    assert whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == last["response"][
        "output"
    ]
    deltas = [event["delta"] for event in events if event["type"] == "response.reasoning_text.delta"]
    assert deltas == ["I ", "muse."]


@pytest.mark.parametrize(
    ("make", "opening", "sign"),
    [
        (message_teller, ["message_start"], b'event: ping\ndata: {"type":"ping"}\n\n'),
        (response_teller, ["response.created", "response.in_progress"], b": waiting\n\n"),
    ],
)
def test_silence_opens_the_stream_and_keeps_it_alive(make: Any, opening: list[str], sign: bytes) -> None:
    teller = make()
    first = teller.head() + teller.alive()
    assert first.endswith(sign)
    assert [event["type"] for event in events_of(first.removesuffix(sign))] == opening
    assert teller.head() + teller.alive() == sign
    assert all(event["type"] not in opening for event in streamed(teller))


@pytest.mark.parametrize(
    ("make", "opening", "failure"),
    [
        (message_teller, ["message_start"], ["error"]),
        (response_teller, ["response.created", "response.in_progress"], ["error", "response.failed"]),
    ],
)
def test_a_stream_that_breaks_off_has_begun(make: Any, opening: list[str], failure: list[str]) -> None:
    kept.clear()
    told = events_of(make().broken(Unavailable("Nobody is here.")))
    assert [event["type"] for event in told] == [*opening, *failure]
    assert not kept


def test_an_answer_of_nothing_has_no_items() -> None:
    nothing = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": ""}}]}
    assert message_teller().whole(nothing)["content"] == []
    assert response_teller().whole(nothing)["output"] == []
