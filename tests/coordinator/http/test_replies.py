import json

import pytest

from potluck.coordinator.generation.job import Delta, Scored
from potluck.coordinator.http.replies import ChatForm, CompletionForm, Usage


class Words:
    vocabulary = 5
    stop_ids = frozenset({2})
    bos = eos = ""
    chat_template = None
    tool_template = None

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        raise NotImplementedError

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return [b"he", b"llo", b"<end>", b"\xc3", b"\xa9"][token]

    def name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")


DELTAS = [
    Delta("he", [Scored(0, -0.5, ((0, -0.5), (1, -1.5)))]),
    Delta("llo", [Scored(1, -0.25, ((1, -0.25), (0, -9999.0)))]),
    Delta(finish="stop"),
]


def chat(logprobs: bool = False) -> ChatForm:
    return ChatForm("tiny", Words(), logprobs)


def completion(logprobs: bool = False, echo: str = "") -> CompletionForm:
    return CompletionForm("tiny", Words(), logprobs, [echo])


def test_usage_adds_up() -> None:
    usage = Usage(3)
    usage.count(Delta("he", cached=2))
    usage.count(Delta("llo"))
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    details = {"prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 0}}
    assert usage.json() == {**counts, **details, "nodes": []}
    usage.count(Delta(cached=2))  # another choice with the same prompt
    assert usage.json()["prompt_tokens_details"] == {"cached_tokens": 3}


SAID = [
    'I look. <tool_call>{"name": "rain", ',
    '"arguments": {}}</tool_call>',
    ' <tool_call>{"name": "rain"}',
    "</tool_call>",
]


def test_a_whole_chat_that_calls_tools() -> None:
    form = ChatForm("tiny", Words(), False, {"rain"})
    choice = form.choice(0, [*map(Delta, SAID), Delta(finish="stop")])
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "I look."
    calls = choice["message"]["tool_calls"]
    assert [(call["type"], call["function"]) for call in calls] == [
        ("function", {"name": "rain", "arguments": "{}"}),
        ("function", {"name": "rain", "arguments": "{}"}),
    ]
    assert len({call["id"] for call in calls}) == 2


def test_a_streamed_chat_that_calls_tools() -> None:
    form = ChatForm("tiny", Words(), False, {"rain"})
    chunks = [form.chunk(0, Delta(text)) for text in SAID] + [form.chunk(0, Delta(finish="stop"))]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "I look. "
    calls = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", [])]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "rain"), (1, "rain")]
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * 4 + ["tool_calls"]


def test_without_tools_all_is_text_and_an_answer_that_was_cut_keeps_its_reason() -> None:
    text = "".join(SAID)
    assert chat().choice(0, [Delta(text, finish="stop")])["message"]["content"] == text
    form = ChatForm("tiny", Words(), False, {"rain"})
    assert form.choice(0, [Delta(text), Delta(finish="length")])["finish_reason"] == "length"


def test_a_whole_chat() -> None:
    form = chat()
    head = form.head(chunk=False)
    assert (head["object"], head["model"]) == ("chat.completion", "tiny")
    assert head["id"].startswith("chatcmpl-")
    assert form.choice(1, DELTAS) == {
        "index": 1,
        "message": {"role": "assistant", "content": "hello", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }


def test_the_chunks_of_a_chat_put_together_are_the_whole() -> None:
    form = chat()
    assert form.head(chunk=True) == {**form.head(chunk=False), "object": "chat.completion.chunk"}
    [opening] = form.opening(0)
    assert opening["delta"] == {"role": "assistant", "content": ""}
    chunks = [form.chunk(0, delta) for delta in DELTAS]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "hello"
    assert [chunk["finish_reason"] for chunk in (opening, *chunks)] == [None, None, None, "stop"]
    assert chunks[-1]["delta"] == {}


def test_the_log_probabilities_of_a_chat() -> None:
    content = chat(logprobs=True).choice(0, DELTAS)["logprobs"]["content"]
    assert [(entry["token"], entry["logprob"], entry["bytes"]) for entry in content] == [
        ("he", -0.5, [104, 101]),
        ("llo", -0.25, [108, 108, 111]),
    ]
    assert [other["token"] for other in content[0]["top_logprobs"]] == ["he", "llo"]
    chunks = [chat(logprobs=True).chunk(0, delta)["logprobs"]["content"] for delta in DELTAS]
    assert [entry for chunk in chunks for entry in chunk] == content


def test_a_token_that_is_half_a_character_shows_its_bytes() -> None:
    [entry] = chat(logprobs=True).chunk(0, Delta("", [Scored(3, -1.0)]))["logprobs"]["content"]
    assert (entry["token"], entry["bytes"]) == ("\ufffd", [0xC3])


@pytest.mark.parametrize("echo", ["", "well, "])
def test_a_whole_completion_repeats_what_it_shall(echo: str) -> None:
    form = completion(echo=echo)
    assert form.head(chunk=False)["object"] == form.head(chunk=True)["object"] == "text_completion"
    assert form.choice(0, DELTAS) == {
        "index": 0,
        "text": f"{echo}hello",
        "logprobs": None,
        "finish_reason": "stop",
    }
    chunks = [*form.opening(0), *(form.chunk(0, delta) for delta in DELTAS)]
    assert "".join(chunk["text"] for chunk in chunks) == f"{echo}hello"


def test_the_log_probabilities_of_a_completion_with_its_prompt() -> None:
    deltas = [Delta(tokens=[Scored(1, None), Scored(0, -3.0, ((1, -0.1),))], generated=0), *DELTAS]
    expected = {
        "tokens": ["llo", "he", "he", "llo"],
        "token_logprobs": [None, -3.0, -0.5, -0.25],
        "top_logprobs": [None, {"llo": -0.1}, {"llo": -1.5, "he": -0.5}, {"he": -9999.0, "llo": -0.25}],
        "text_offset": [0, 3, 5, 7],
    }
    assert completion(logprobs=True, echo="llohe").choice(0, deltas)["logprobs"] == expected
    form = completion(logprobs=True, echo="llohe")
    chunks = [form.chunk(0, delta)["logprobs"] for delta in deltas]
    assert {name: [value for chunk in chunks for value in chunk[name]] for name in expected} == expected


def test_of_two_tokens_that_look_alike_the_likelier_is_shown() -> None:
    delta = Delta("", [Scored(3, -0.1, ((3, -0.1), (4, -2.0)))])
    assert completion(logprobs=True).chunk(0, delta)["logprobs"]["top_logprobs"] == [{"\ufffd": -0.1}]


def test_answers_of_one_request_keep_their_own_offsets() -> None:
    form = CompletionForm("tiny", Words(), True, ["", ""])
    offsets = [form.chunk(index, DELTAS[0])["logprobs"]["text_offset"] for index in (0, 1, 0)]
    assert offsets == [[0], [0], [2]]


def test_every_reply_has_its_own_name_and_is_json() -> None:
    assert chat().head(chunk=False)["id"] != chat().head(chunk=False)["id"]
    assert json.loads(json.dumps(completion(logprobs=True).choice(0, DELTAS)))["text"] == "hello"
