"""The dialects in JSON, in the words of their models' own templates: a call, relatives, and what is not one."""

from typing import Any

import pytest

from kit.calls import KOELN, SUN, read, read_at_every_cut
from potluck.coordinator.text.calls.registry import dialect_named

HERMES = '<tool_call>\n{"name": "rain", "arguments": {"city": "Köln"}}\n</tool_call>'
GENERIC = '{"name": "rain", "arguments": {"city": "Köln"}}'
KIMI = '<|tool_call_begin|>functions.rain:0<|tool_call_argument_begin|>{"city": "Köln"}<|tool_call_end|>'
LLAMA = '{"name": "rain", "parameters": {"city": "Köln"}}'
DEEP = "<\uff5ctool▁{}\uff5c>".format
BEGIN, CALL, SEP, END, CLOSE = map(DEEP, ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end"))
V3 = (
    f'{BEGIN}{CALL}function{SEP}rain\n```json\n{{"city": "Köln"}}\n```{END}\n'
    f"{CALL}function{SEP}sun\n```json\n{{}}\n```{END}{CLOSE}"
)
V31 = f'{BEGIN}{CALL}rain{SEP}{{"city": "Köln"}}{END}{CALL}sun{SEP}{{}}{END}{CLOSE}'
COMMENTARY = '<|channel|>commentary to=functions.rain <|constrain|>json<|message|>{"city": "Köln"}<|call|>'

CALLS = {
    # Hermes, Qwen
    HERMES: [KOELN],
    HERMES.replace("\n", ""): [KOELN],
    f"{HERMES}\n{HERMES}": [KOELN, KOELN],
    HERMES.removesuffix("</tool_call>"): [KOELN],
    '<tool_call>{"arguments": {"city": "Köln"}, "name": "rain"}</tool_call>': [KOELN],
    '<tool_call>{"name": "sun"}</tool_call>': [SUN],
    '<tool_call>{"name": "sun", "arguments": null}</tool_call>': [SUN],
    '<tool_call>[{"name": "sun", "arguments": {}}]</tool_call>': [SUN],
    '<tool_call>{"name": "rain", "arguments": {"city": "</tool_call>"}}</tool_call>': [
        ("rain", '{"city": "</tool_call>"}')
    ],
    '<tool_call>{"arguments": {"city": "\\"}</tool_call>"}, "name": "rain"}</tool_call>': [
        ("rain", '{"city": "\\"}</tool_call>"}')
    ],
    # Llama 3
    LLAMA: [KOELN],
    f"\n{LLAMA}\n": [KOELN],
    f"{LLAMA}; {LLAMA}": [KOELN, KOELN],
    f"{LLAMA}\n{LLAMA}\n{LLAMA}": [KOELN, KOELN, KOELN],
    f"<|python_tag|>{LLAMA}; {LLAMA}": [KOELN, KOELN],
    '{"parameters": {"city": "Köln"}, "name": "rain"}': [KOELN],
    '{"type": "function", "name": "rain", "parameters": {"city": "Köln"}, "note": [{}]}': [KOELN],
    '{"name":"rain","arguments":{"a":["}\\"",{}]}}': [("rain", '{"a":["}\\"",{}]}')],
    '{"name": "r\\u0061in", "arguments": {"city": "Köln"}}': [KOELN],
    # As OpenAI writes them
    '{"id": "x", "type": "function", "function": {"name": "rain", "arguments": "{\\"city\\": \\"Köln\\"}"}}': [KOELN],
    # Mistral
    '[TOOL_CALLS][{"name": "rain", "arguments": {"city": "Köln"}}, {"name": "sun", "arguments": {}}]': [KOELN, SUN],
    '[TOOL_CALLS] [{"name": "sun", "arguments": {}, "id": "abcdefghi"}]': [SUN],
    '[TOOL_CALLS]{"name": "sun", "arguments": {}}': [SUN],
    '[TOOL_CALLS]rain[ARGS]{"city": "Köln"}[TOOL_CALLS]sun[ARGS]{}': [KOELN, SUN],
    '[TOOL_CALLS]rain[CALL_ID]a1b2c3d4e[ARGS]{"city": "Köln"}': [KOELN],
    '[TOOL_CALLS]rain{"city": "Köln"}': [KOELN],
    # DeepSeek
    V3: [KOELN, SUN],
    V31: [KOELN, SUN],
    V3.removeprefix(BEGIN).removesuffix(CLOSE): [KOELN, SUN],
    # gpt-oss
    COMMENTARY: [KOELN],
    f"<|start|>assistant{COMMENTARY}": [KOELN],
    COMMENTARY.replace(" <|constrain|>json", ""): [KOELN],
    "<|start|>assistant to=functions.sun<|channel|>commentary json<|message|>{}<|call|>": [SUN],
    # Granite and Phi, Nemotron, Jamba, LFM2
    f"<|tool_call|>[{GENERIC}, {GENERIC}]": [KOELN, KOELN],
    f"<|tool_call|>[{GENERIC}]<|/tool_call|>": [KOELN],
    f"<TOOLCALL>[{GENERIC}]</TOOLCALL>": [KOELN],
    f"<tool_calls>[\n{GENERIC}\n]</tool_calls>": [KOELN],
    f"<|tool_call_start|>[{GENERIC}]<|tool_call_end|>": [KOELN],
    # Kimi
    f"<|tool_calls_section_begin|>{KIMI}{KIMI.replace('0', '1')}<|tool_calls_section_end|>": [KOELN, KOELN],
    KIMI.replace("functions.", "").replace(":0", ""): [KOELN],
    # In a fence, and in a list
    f"```json\n{LLAMA}\n```": [KOELN],
    f"```\n{LLAMA}\n{LLAMA}\n```": [KOELN, KOELN],
    f"```json\n[{LLAMA}, {LLAMA}]```": [KOELN, KOELN],
    f"```json\n{LLAMA}": [KOELN],
    f"[{LLAMA}, {LLAMA}]": [KOELN, KOELN],
}


@pytest.mark.parametrize("text", CALLS)
def test_calls_are_read_wherever_they_are_cut(text: str) -> None:
    assert read_at_every_cut(text) == ("", CALLS[text], True)


@pytest.mark.parametrize("text", CALLS)
def test_the_same_calls_of_tools_that_are_not_offered_are_text(text: str) -> None:
    assert read_at_every_cut(text, {"other": {}}) == (text, [], False)


@pytest.mark.parametrize("text", CALLS)
def test_only_the_first_counts_where_there_may_be_one(text: str) -> None:
    assert read_at_every_cut(text, once=True) == ("", CALLS[text][:1], True)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": ["rain"]}',
        '{"name": "rain", "arguments": 5}',
        '{"name": "rain", "arguments": "5"}',
        '{"name": "rain"',
        '{"type": "object", "name": "rain", "arguments": {}}',
        '{"arguments": [], "name": "rain"}',
        f'{{"answer": {LLAMA}}}',
        f"```json\n{LLAMA}\nis how to call it.\n```",
        f"```json\n// A call:\n{LLAMA}\n```",
        '```json\n{"name": "rain", "arguments": {"city": Köln}}\n```',
        "[TOOL_CALLS] None.",
        "[TOOL_CALLS]rainy[ARGS]{}",
        "<|python_tag|>print(1)",
        f"{BEGIN}{CALL}function{SEP}rain\n?",
        "<|channel|>commentary to=functions.rain and more",
    ],
)
def test_what_only_resembles_a_call_is_text(text: str) -> None:
    assert read_at_every_cut(text) == (text, [], False)


@pytest.mark.parametrize(
    ("text", "rest"), [(f"See:\n```json\n{LLAMA}\n```\nDone", "See:\nDone"), (f"Well. {COMMENTARY}", "Well. ")]
)
def test_marks_begin_a_call_after_text_too(text: str, rest: str) -> None:
    assert read_at_every_cut(text) == (rest, [KOELN], True)


def test_the_longer_of_two_names_is_called() -> None:
    tools: dict[str, Any] = {"rain": {}, "rain_now": {}}
    for text in ('{"name": "rain_now", "arguments": {}}', "[TOOL_CALLS]rain_now[ARGS]{}", f"{CALL}rain_now{SEP}{{}}"):
        assert read(list(text), tools) == ("", [("rain_now", "{}")], True)


def test_foreign_ids_fit_mistrals_templates() -> None:
    mistral = dialect_named("mistral")
    assert mistral.fitted("a1B2c3D4e") == "a1B2c3D4e"
    fitted = {mistral.fitted(identity) for identity in ("call_1", "call_2", "call_1", "")}
    assert len(fitted) == 3
    assert all(len(identity) == 9 and identity.isalnum() for identity in fitted)
    assert dialect_named("hermes").fitted("call_1") == "call_1"
