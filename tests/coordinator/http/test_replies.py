import itertools
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.generation.job import Delta, Scored
from potluck.coordinator.http.completion_form import CompletionForm, Echo
from potluck.coordinator.http.replies import ChatForm, Usage
from potluck.coordinator.text.calls.registry import Offer, dialect_named


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


def completion(logprobs: bool = False, echo: str = "", scored: int = 0) -> CompletionForm:
    return CompletionForm("tiny", Words(), logprobs, [Echo(echo, scored)])


def test_usage_adds_up() -> None:
    usage = Usage(3)
    usage.count(Delta("he", cached=2))
    usage.count(Delta("llo"))
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    details = {"reasoning_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    held = {"prompt_tokens_details": {"cached_tokens": 2}}
    assert usage.json() == {**counts, **held, "completion_tokens_details": details, "nodes": []}
    usage.count(Delta(cached=2))  # another choice with the same prompt
    assert usage.json()["prompt_tokens_details"] == {"cached_tokens": 3}


OFFER = Offer({"rain": {}}, dialect_named("hermes"))
SAID = [
    'I look. <tool_call>{"name": "rain", ',
    '"arguments": {}}</tool_call>',
    ' <tool_call>{"name": "rain"}',
    "</tool_call>",
]


def test_a_whole_chat_that_calls_tools() -> None:
    form = ChatForm("tiny", Words(), False, OFFER)
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
    form = ChatForm("tiny", Words(), False, OFFER)
    chunks = [form.chunk(0, Delta(text)) for text in SAID] + [form.chunk(0, Delta(finish="stop"))]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == "I look. "
    calls = [call for chunk in chunks for call in chunk["delta"].get("tool_calls", [])]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "rain"), (1, "rain")]
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * 4 + ["tool_calls"]


def test_without_tools_all_is_text_and_an_answer_that_was_cut_keeps_its_reason() -> None:
    text = "".join(SAID)
    assert chat().choice(0, [Delta(text, finish="stop")])["message"]["content"] == text
    form = ChatForm("tiny", Words(), False, OFFER)
    assert form.choice(0, [Delta(text), Delta(finish="length")])["finish_reason"] == "length"


BROKEN = '<tool_call>{"name": "rain", "arguments": {"city": Rome}}</tool_call>'


@pytest.mark.parametrize("end", ["stop", "length"])
@pytest.mark.parametrize("text", [BROKEN, BROKEN[:-20], f"{SAID[0]}{SAID[1]} {BROKEN}"])
def test_calls_whose_arguments_are_not_json_are_no_reason_to_call(text: str, end: str) -> None:
    form = ChatForm("tiny", Words(), False, OFFER)
    whole, streamed = form.choice(0, [Delta(text), Delta(finish=end)]), form.chunk(1, Delta(text, finish=end))
    assert whole["message"]["tool_calls"]
    assert (whole["finish_reason"], streamed["finish_reason"]) == (end, end)


@pytest.mark.parametrize(("name", "form"), [("hermes", "call_[0-9a-f]{32}"), ("mistral", "[A-Za-z0-9]{9}")])
def test_ids_are_as_the_template_wants_them(name: str, form: str) -> None:
    made = ChatForm("tiny", Words(), False, Offer({"rain": {}}, dialect_named(name)))
    calls = made.choice(0, [*map(Delta, SAID), Delta(finish="stop")])["message"]["tool_calls"]
    assert len({call["id"] for call in calls if re.fullmatch(form, call["id"])}) == 2


def test_an_answer_that_may_call_once_is_watched_until_it_has() -> None:
    form = ChatForm("tiny", Words(), False, replace(OFFER, once=True))
    is_over, other = form.watch(), form.watch()
    assert [is_over(text) for text in SAID] == [False, True, True, True]
    assert not other(SAID[0])
    choice = form.choice(0, [*map(Delta, SAID), Delta(finish="stop")])
    assert len(choice["message"]["tool_calls"]) == 1
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I look.", "tool_calls")


def test_a_call_that_is_only_thought_of_ends_nothing() -> None:
    form = ChatForm("tiny", Words(), False, replace(OFFER, once=True))
    is_over = form.watch()
    assert [is_over(text) for text in ("<think>", SAID[0], SAID[1], "</think>", *SAID[:2])] == [False] * 5 + [True]


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
    assert (entry["token"], entry["bytes"]) == ("\\xc3", [0xC3])


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
    assert completion(logprobs=True, echo="llohe", scored=2).choice(0, deltas)["logprobs"] == expected
    form = completion(logprobs=True, echo="llohe")
    chunks = [form.chunk(0, delta)["logprobs"] for delta in deltas]
    assert {name: [value for chunk in chunks for value in chunk[name]] for name in expected} == expected


def test_parts_of_characters_are_written_as_openai_writes_them() -> None:
    delta = Delta("", [Scored(3, -0.1, ((3, -0.1), (4, -2.0)))])
    logprobs = completion(logprobs=True).chunk(0, delta)["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3"]
    assert logprobs["top_logprobs"] == [{"bytes:\\xc3": -0.1, "bytes:\\xa9": -2.0}]


class Pieces(Words):
    """A tokenizer of any tokens, in which the first is a control token."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = (b"<bos>", *pieces)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self.pieces[token] if token or special else b""


def offsets(
    pieces: list[bytes], prompt: list[int], answer: list[int], shown: frozenset[int] = frozenset()
) -> list[int]:
    """The places of the tokens of a prompt that is echoed, and of its answer."""
    form = CompletionForm("tiny", Pieces(*pieces), True, [Echo("", len(prompt))], shown)
    deltas = [Delta("", [Scored(token, -1.0) for token in tokens]) for tokens in (prompt, *([one] for one in answer))]
    return [offset for delta in deltas for offset in form.chunk(0, delta)["logprobs"]["text_offset"]]


EMOJI = "😀".encode()


def test_the_tokens_of_one_character_begin_where_it_begins() -> None:
    # "a 😀 b": the emoji is one character of three tokens
    pieces = [b"a", b" " + EMOJI[:2], EMOJI[2:3], EMOJI[3:], b" b"]
    assert offsets(pieces, [], [1, 2, 3, 4, 5]) == [0, 1, 2, 2, 3]
    assert offsets(pieces, [1, 2, 3], [4, 5]) == [0, 1, 2, 3, 4]  # what is cut off from the prompt's is a character
    assert offsets(pieces, [1, 2, 3, 4, 5], [1]) == [0, 1, 2, 2, 3, 5]


def test_control_tokens_have_the_length_that_they_have_in_the_text() -> None:
    assert offsets([b"ab"], [0, 1], [0, 1]) == [0, 5, 7, 7]
    assert offsets([b"ab"], [0, 1], [0, 1], shown=frozenset({0})) == [0, 5, 7, 12]
    assert offsets([b"ab"], [], [1, 0, 1]) == [0, 2, 2]


def test_bytes_that_are_no_character_count_as_the_text_shows_them() -> None:
    assert offsets([b"\xff", b"a", b"\xf0\x9f"], [], [1, 2, 3, 2, 2]) == [0, 1, 2, 2, 4]


@given(st.text(max_size=12), st.data())
def test_the_places_of_tokens_lie_in_the_text(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(encoded)))) | {0, len(encoded)})
    pieces = [encoded[start:end] for start, end in itertools.pairwise(cuts)]
    told = offsets(pieces, [], list(range(1, len(pieces) + 1)))
    assert told == [len(encoded[:start].decode("utf-8", "ignore")) for start in cuts[:-1]]


def test_answers_of_one_request_keep_their_own_offsets() -> None:
    form = CompletionForm("tiny", Words(), True, [Echo(), Echo()])
    told = [form.chunk(index, DELTAS[0])["logprobs"]["text_offset"] for index in (0, 1, 0)]
    assert told == [[0], [0], [2]]


def test_every_reply_has_its_own_name_and_is_json() -> None:
    assert chat().head(chunk=False)["id"] != chat().head(chunk=False)["id"]
    assert json.loads(json.dumps(completion(logprobs=True).choice(0, DELTAS)))["text"] == "hello"


CUT = '<tool_call>\n{"name'


@pytest.mark.parametrize("said", [CUT, '<tool_call>\n{"name": "rain", "arguments": {}}\n</tool_call>\n<tool_c'])
def test_the_beginning_of_a_demanded_call_is_no_text(said: str) -> None:
    offer = Offer({"rain": {}}, dialect_named("hermes"), demanded=True)
    choice = ChatForm("tiny", Words(), False, offer).choice(0, [Delta(said, finish="length")])
    assert (choice["message"]["content"] or "", choice["finish_reason"]) == ("", "length")
    assert len(choice["message"].get("tool_calls", [])) == said.count("rain")
    form = ChatForm("tiny", Words(), False, offer)
    chunks = [form.chunk(0, delta) for delta in [*map(Delta, said), Delta(finish="length")]]
    assert not any("content" in chunk["delta"] for chunk in chunks)
