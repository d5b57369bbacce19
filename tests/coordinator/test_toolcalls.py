import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.toolcalls import ToolCall, ToolStream

RAIN = ToolCall("rain", '{"city": "Köln"}')
HERMES = '<tool_call>\n{"name": "rain", "arguments": {"city": "Köln"}}\n</tool_call>'
LLAMA = '{"name": "rain", "parameters": {"city": "Köln"}}'

CASES = {
    HERMES: ("", [RAIN]),
    LLAMA: ("", [RAIN]),
    f"\n{LLAMA}\n": ("", [RAIN]),
    f"I look. {HERMES}\n{HERMES}\n": ("I look. ", [RAIN, RAIN]),
    HERMES.removesuffix("</tool_call>"): ("", [RAIN]),
    '<tool_call>{"name": "rain"}</tool_call>': ("", [ToolCall("rain", "{}")]),
    "Hello <tool>": ("Hello <tool>", []),
    "It is <tool_cal": ("It is <tool_cal", []),
    "<tool_call>rain!</tool_call> Done": ("<tool_call>rain!</tool_call> Done", []),
    HERMES.replace("rain", "snow"): (HERMES.replace("rain", "snow"), []),
    '{"answer": 1}': ('{"answer": 1}', []),
    f"Not so: {LLAMA}": (f"Not so: {LLAMA}", []),
    '{"name": ["rain"]}': ('{"name": ["rain"]}', []),
    '{"name": "rain", "arguments": 5}': ('{"name": "rain", "arguments": 5}', []),
    f"</tool_call>{HERMES}": ("</tool_call>", [RAIN]),
    f"{HERMES} And so on. {HERMES}": ("And so on. ", [RAIN, RAIN]),
    "": ("", []),
    " \n": (" \n", []),
}


def read(pieces: list[str]) -> tuple[str, list[ToolCall]]:
    stream = ToolStream(["rain"])
    told = [*(stream.push(piece) for piece in pieces), stream.finish()]
    calls = [call for _, calls in told for call in calls]
    assert stream.found == len(calls)
    return "".join(text for text, _ in told), calls


@pytest.mark.parametrize("text", CASES)
def test_calls_are_told_from_text(text: str) -> None:
    assert read([text]) == CASES[text]


@given(st.sampled_from(sorted(CASES)), st.data())
def test_it_does_not_matter_how_the_text_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == CASES[text]


def test_text_is_not_held_back_without_need() -> None:
    stream = ToolStream(["rain"])
    assert stream.push("I look. <to") == ("I look. ", [])
    assert stream.push("tal") == ("<total", [])


def test_arguments_are_json() -> None:
    _, [call] = read(['<tool_call>{"name": "rain", "arguments": {"days": [1, null]}}</tool_call>'])
    assert json.loads(call.arguments) == {"days": [1, None]}
