import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.text.thinking import Marks, Place, Thinking, ThinkingStream, gathered, recalled

THINK, HARMONY = Thinking.THINK.value, Thinking.HARMONY.value
FINAL = "<|start|>assistant<|channel|>final<|message|>"


def split(*pieces: str, marks: Marks = THINK, place: Place = Place.BEFORE) -> tuple[str, str]:
    stream = ThinkingStream(marks, place)
    told = [*map(stream.push, pieces), stream.finish()]
    return "".join(thought for thought, _ in told), "".join(text for _, text in told)


CASES: list[tuple[str, Marks, Place, str, str]] = [
    ("I muse</think>\n\nAnswer", THINK, Place.OPENED, "I muse", "Answer"),
    ("\nI muse\n\nmore \n</think> Answer\n", THINK, Place.OPENED, "I muse\n\nmore", "Answer\n"),
    ("<think>\nI muse\n</think>\n\nAnswer", THINK, Place.BEFORE, "I muse", "Answer"),
    ("\n <think>I muse</think>Answer", THINK, Place.BEFORE, "I muse", "Answer"),
    ("<think>I muse</think>Answer", THINK, Place.OPENED, "I muse", "Answer"),  # the mark again
    ("<think>\n\n</think>\n\nAnswer", THINK, Place.BEFORE, "", "Answer"),
    ("</think>Answer", THINK, Place.OPENED, "", "Answer"),
    ("I muse </thin", THINK, Place.OPENED, "I muse </thin", ""),
    ("I muse \n", THINK, Place.OPENED, "I muse", ""),
    ("<think>one</think>\n<think>two</think>Answer", THINK, Place.BEFORE, "one\n\ntwo", "Answer"),
    ("", THINK, Place.OPENED, "", ""),
    ("", THINK, Place.BEFORE, "", ""),
    ("  Answer", THINK, Place.BEFORE, "", "  Answer"),
    (" \n", THINK, Place.BEFORE, "", " \n"),
    ("<thinner> <think>", THINK, Place.BEFORE, "", "<thinner> <think>"),
    ("<thi", THINK, Place.BEFORE, "", "<thi"),
    ("The tag <think>x</think> is a tag", THINK, Place.BEFORE, "", "The tag <think>x</think> is a tag"),
    ("I muse</think>Write <think>x</think>.", THINK, Place.OPENED, "I muse", "Write <think>x</think>."),
    ("[THINK]I muse[/THINK]Answer", Thinking.MISTRAL.value, Place.BEFORE, "I muse", "Answer"),
    ("<|channel>thought\nI muse\n<channel|>Answer", Thinking.GEMMA.value, Place.BEFORE, "I muse", "Answer"),
    (f"<|channel|>analysis<|message|>I muse<|end|>{FINAL}Answer", HARMONY, Place.BEFORE, "I muse", "Answer"),
    (f"I muse<|end|>{FINAL}Answer", HARMONY, Place.OPENED, "I muse", "Answer"),
    ("<|channel|>final<|message|>Answer", HARMONY, Place.BEFORE, "", "Answer"),
    (f"<|channel|>commentary<|message|>I look.<|end|>{FINAL}Answer", HARMONY, Place.BEFORE, "", "I look.\n\nAnswer"),
    (
        "<|channel|>analysis<|message|>one<|end|><|start|>assistant<|channel|>analysis<|message|>two<|end|><|start|>",
        HARMONY,
        Place.BEFORE,
        "one\n\ntwo",
        "",
    ),
    (
        '<|channel|>analysis<|message|>I call.<|end|><|start|>assistant<|channel|>commentary to=functions.rain {"a":1}',
        HARMONY,
        Place.BEFORE,
        "I call.",
        '<|channel|>commentary to=functions.rain {"a":1}',
    ),
    ("Answer", HARMONY, Place.BEFORE, "", "Answer"),
    (
        "<|think|>I muse<|end|><|begin|>assistant<|content|>Answer",
        Thinking.SOLAR.value,
        Place.BEFORE,
        "I muse",
        "Answer",
    ),
    (" and so on </think>Answer", THINK, Place.THOUGHT, " and so on", "Answer"),
    ("</think>\nAnswer", THINK, Place.THOUGHT, "", "Answer"),
    ("<think>", THINK, Place.THOUGHT, "<think>", ""),
    (" Paris <think>x</think>", THINK, Place.TEXT, "", " Paris <think>x</think>"),
    ("<think>x</think>", THINK, Place.TEXT, "", "<think>x</think>"),
    (" Paris<|end|>", HARMONY, Place.TEXT, "", " Paris"),
]


@pytest.mark.parametrize(("said", "marks", "place", "thought", "text"), CASES)
def test_thinking_is_told_from_the_answer_however_it_is_cut(
    said: str, marks: Marks, place: Place, thought: str, text: str
) -> None:
    assert split(said, marks=marks, place=place) == (thought, text)
    assert split(*said, marks=marks, place=place) == (thought, text)
    for cut in range(len(said)):
        assert split(said[:cut], said[cut:], marks=marks, place=place) == (thought, text)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "b ", ""])),
    st.sampled_from(Place),
)
def test_pieces_are_the_whole(pieces: list[str], place: Place) -> None:
    assert split(*pieces, place=place) == split("".join(pieces), place=place)


@given(
    st.lists(st.sampled_from([*HARMONY.heads, HARMONY.begin, HARMONY.end, "<|", "|>", "<|start|>", " ", "a", "b "])),
    st.sampled_from(Place),
)
def test_pieces_of_channels_are_the_whole(pieces: list[str], place: Place) -> None:
    whole = split("".join(pieces), marks=HARMONY, place=place)
    assert split(*pieces, marks=HARMONY, place=place) == whole


def test_text_flows_as_soon_as_it_is_certain() -> None:
    stream = ThinkingStream(THINK)
    pieces = ["<th", "ink>", "I ", "muse ", "on</", "think>", "\n\n", "The ", "<", "end"]
    assert list(map(stream.push, pieces)) == [
        *(("", ""), ("", ""), ("I", ""), (" muse", ""), (" on", "")),
        *(("", ""), ("", ""), ("", "The "), ("", "<"), ("", "end")),
    ]


@pytest.mark.parametrize(
    ("pieces", "place", "tokens"),
    [
        (["<", "think", ">", "a", " b", "</", "think>", "\n\n", "Answer", " x"], Place.BEFORE, 7),
        (["a", "</think>", "Answer"], Place.OPENED, 2),
        (["a", " b", ""], Place.OPENED, 3),
        (["<", "b>", "Answer"], Place.BEFORE, 0),
        (["\n", "Answer"], Place.BEFORE, 0),
        (["</think>Answer"], Place.OPENED, 1),
    ],
)
def test_the_tokens_of_thinking_are_counted_with_their_marks(pieces: list[str], place: Place, tokens: int) -> None:
    stream = ThinkingStream(THINK, place)
    for piece in pieces:
        stream.push(piece)
    stream.finish()
    assert stream.tokens == tokens


@pytest.mark.parametrize(
    ("prompt", "said", "place"),
    [
        ("<|im_start|>assistant\n<think>\n", "", Place.OPENED),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "", Place.BEFORE),
        ("<|im_start|>assistant\n", "", Place.BEFORE),
        ("user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n", "", Place.BEFORE),
        ("assistant\n<think>\nI muse on", "<think>\nI muse on", Place.THOUGHT),
        ("assistant\n<think>\nI muse on", "on", Place.TEXT),
        ("assistant\n<think>a</think>\nThe capital", "The capital", Place.TEXT),
        ("user\n<think><|im_end|>\nassistant\nThe capital", "The capital", Place.TEXT),
    ],
)
def test_whether_the_prompt_ends_in_thinking(prompt: str, said: str, place: Place) -> None:
    assert THINK.end_of(prompt, said) is place


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{{ '<|im_start|>assistant\n<think>\n' }}", Thinking.THINK),
        ("{{ '[THINK]' + block }}", Thinking.MISTRAL),
        ("{{ '<|channel>thought\\n' }}", Thinking.GEMMA),
        ("<|start|>assistant<|channel|>analysis<|message|>x<|end|>", Thinking.HARMONY),
        ("<|user|>\n{{ content }}<|end|>\n<|assistant|>\n", None),
    ],
)
def test_the_template_says_which_marks_there_are(template: str, kind: Thinking | None) -> None:
    assert Thinking.of(template) is kind


def test_no_kind_is_mistaken_for_another() -> None:
    for one, other in itertools.permutations(Thinking, 2):
        assert one.value.begin not in other.value.all


@pytest.mark.parametrize(
    ("message", "thought"),
    [
        ({"reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm", "reasoning_content": ""}, "hm"),
        ({"thinking": "hm"}, "hm"),
        ({"content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "a"}]}, "hm"),
        ({"content": [{"type": "reasoning", "text": "hm"}]}, "hm"),
        ({"content": [{"type": "redacted_thinking", "data": "x"}]}, None),
        ({"reasoning": {"effort": "low"}, "content": "a"}, None),
        ({"reasoning_content": 5}, None),
        ({"content": "a"}, None),
    ],
)
def test_the_thinking_of_a_message_wherever_the_client_put_it(message: dict[str, Any], thought: str | None) -> None:
    told = gathered(message)
    assert told.get("reasoning_content") == thought
    assert not {"reasoning", "thinking"} & told.keys()
    content = told.get("content")
    assert content == message.get("content") or content in ([{"type": "text", "text": "a"}], [])


ASKS = "{{ message.reasoning_content }}"


@pytest.mark.parametrize(
    ("message", "template", "expected"),
    [
        ({"content": "<think>\nhm\n</think>\n\nYes."}, "", {"content": "Yes."}),
        ({"content": "<think>\nhm\n</think>\n\nYes."}, ASKS, {"content": "Yes.", "reasoning_content": "hm"}),
        ({"content": "Yes.", "reasoning_content": "hm"}, "", {"content": "Yes."}),
        (
            {"content": "Yes.", "reasoning_content": "hm"},
            "message['reasoning']",
            {"content": "Yes.", "reasoning": "hm"},
        ),
        ({"content": "Yes.", "reasoning_content": "hm"}, ASKS, {"content": "Yes.", "reasoning_content": "hm"}),
        ({"content": "<think>b", "reasoning_content": "hm"}, "", {"content": "<think>b"}),
        ({"content": "A <think>b</think>"}, ASKS, {"content": "A <think>b</think>"}),
        (
            {"content": "Yes.", "reasoning_content": "hm", "tool_calls": [1]},
            '"thinking" in message',
            {"content": "Yes.", "tool_calls": [1]},
        ),
        (
            {"content": "", "reasoning_content": "hm", "tool_calls": [1]},
            '"thinking" in message',
            {"content": "", "thinking": "hm", "tool_calls": [1]},
        ),
    ],
)
def test_past_thinking_leaves_the_text(message: dict[str, Any], template: str, expected: dict[str, Any]) -> None:
    assert recalled(message, THINK, template) == expected


def test_past_channels_leave_the_text() -> None:
    said = f"<|channel|>analysis<|message|>hm<|end|>{FINAL}Yes."
    assert recalled({"content": said}, HARMONY, "'thinking'") == {"content": "Yes.", "thinking": "hm"}
