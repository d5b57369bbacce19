import json
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.text.toolcalls import CallForm, CallPiece, ToolStream


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: str


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
    '<tool_call>{"arguments": {"city": "Köln"}, "name": "rain"}</tool_call> Done': ("Done", [RAIN]),
    '{"name":"rain","arguments":{"a":["}\\"",{}]}} Done': ("Done", [ToolCall("rain", '{"a":["}\\"",{}]}')]),
    '{"name": "rain", "arguments": {"city": "Kö': ("", [ToolCall("rain", '{"city": "Kö')]),
    f'{{"name": "rain", "arguments": {{"city": "{"</tool_call>"}"}}}}': (
        "",
        [ToolCall("rain", '{"city": "</tool_call>"}')],
    ),
    f"{LLAMA}\n{HERMES}": ("", [RAIN, RAIN]),
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
    """The text and the calls that a client puts together."""
    stream, calls = ToolStream({"rain"}), list[ToolCall]()
    told = [*(stream.push(piece) for piece in pieces), stream.finish()]
    for piece in (piece for _, pieces in told for piece in pieces):
        if piece.name is not None:
            calls.append(ToolCall(piece.name, ""))
        assert piece.index == len(calls) - 1
        calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + piece.arguments)
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


def test_a_call_grows_piece_by_piece() -> None:
    stream = ToolStream(["rain"])
    said = ['<tool_call>\n{"name": "rain", "argu', 'ments": ', '{"city"', ': "Kö', 'ln"}', "}\n</tool_call> Done"]
    told = [stream.push(piece) for piece in said]
    begun = [CallPiece(0, "rain", ""), CallPiece(0, None, '{"city"')]
    more = [[CallPiece(0, None, piece)] for piece in said[3:5]]
    assert [pieces for _, pieces in told] == [[], [], begun, *more, []]
    assert [text for text, _ in told] == ["", "", "", "", "", "Done"]


def test_text_is_not_held_back_without_need() -> None:
    stream = ToolStream(["rain"])
    assert stream.push("I look. <to") == ("I look. ", [])
    assert stream.push("tal") == ("<total", [])


def test_arguments_are_json() -> None:
    _, [call] = read(['<tool_call>{"name": "rain", "arguments": {"days": [1, null]}}</tool_call>'])
    assert json.loads(call.arguments) == {"days": [1, None]}


# Forms

QWEN_TEMPLATE = (
    r'{%- if tools %}{{- "<tool_call>\n{\"name\": <name>, \"arguments\": <args-json-object>}\n</tool_call>" }}'
)
HERMES_TEMPLATE = '{% if tools %}<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}\n</tool_call>'
LLAMA_TEMPLATE = (
    """{% if tools %}{{ '{"name": function name, "parameters": dictionary}' }}{{ message.tool_calls[0] }}"""
)
CODER_TEMPLATE = "{% if tools %}<tool_call>\n<function=name>\n<parameter=city>Rom</parameter>{{ tool_call.arguments }}"


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (QWEN_TEMPLATE, CallForm.HERMES),
        (HERMES_TEMPLATE, CallForm.HERMES),
        (LLAMA_TEMPLATE, CallForm.LLAMA),
        (CODER_TEMPLATE, None),
        ("{% if tools %}[AVAILABLE_TOOLS]{{ tools }}", None),
        ("{% for message in messages %}{{ message.content }}", None),
    ],
)
def test_a_template_shows_how_its_model_writes_calls(template: str, form: CallForm | None) -> None:
    assert CallForm.of(template) is form
