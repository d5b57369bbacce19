import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.calls import KOELN, TOOLS, read, read_at_every_cut, stream_of
from potluck.coordinator.text.calls.registry import CONTROLS
from potluck.coordinator.text.calls.stream import CallPiece

HERMES = '<tool_call>\n{"name": "rain", "arguments": {"city": "Köln"}}\n</tool_call>'
LLAMA = '{"name": "rain", "parameters": {"city": "Köln"}}'
CODER = "<tool_call>\n<function=rain>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>"

CASES = {
    "Hello <tool>": "Hello <tool>",
    "It is <tool_cal": "It is <tool_cal",
    "<tool_call>rain!</tool_call> Done": "<tool_call>rain!</tool_call> Done",
    HERMES.replace("rain", "snow"): HERMES.replace("rain", "snow"),
    '{"answer": 1}': '{"answer": 1}',
    f"Not so: {LLAMA}": f"Not so: {LLAMA}",
    "```python\nprint()\n```\nSo it is.": "```python\nprint()\n```\nSo it is.",
    "[1, 2]": "[1, 2]",
    "": "",
    " \n": " \n",
}
"""Answers that call nothing, and stay as they are."""


@pytest.mark.parametrize("text", CASES)
def test_what_calls_no_tool_is_text(text: str) -> None:
    assert read_at_every_cut(text) == (CASES[text], [], False)


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (f"I look. {HERMES}\n{CODER}\n", "I look. ", [KOELN, KOELN]),
        (f"{LLAMA}\n{HERMES}", "", [KOELN, KOELN]),
        (f"</tool_call>{HERMES}", "</tool_call>", [KOELN]),
        (f"{HERMES} And so on. {HERMES}", "And so on. ", [KOELN, KOELN]),
        (f"<tool_call> or {HERMES}", "<tool_call> or ", [KOELN]),
        (f"{HERMES}; so {LLAMA}", f"so {LLAMA}", [KOELN]),
        (f"{HERMES},\n ok; so, well;", "ok; so, well;", [KOELN]),
        (f"{LLAMA};", "", [KOELN]),
        (f"{LLAMA}; ;\n", "", [KOELN]),
        (f"{LLAMA} , <tool_call>;", "<tool_call>;", [KOELN]),
        (f"Well, ;{HERMES} , {HERMES},", "Well, ;", [KOELN, KOELN]),
    ],
)
def test_calls_are_told_from_the_text_around_them(text: str, rest: str, calls: list[tuple[str, str]]) -> None:
    assert read_at_every_cut(text) == (rest, calls, True)


def test_a_call_grows_piece_by_piece() -> None:
    stream = stream_of()
    said = ['<tool_call>\n{"name": "rain", "argu', 'ments": ', '{"city"', ': "Kö', 'ln"}', "}\n</tool_call> Done"]
    told = [stream.push(piece) for piece in said]
    begun = [CallPiece(0, "rain", ""), CallPiece(0, None, '{"city"')]
    more = [[CallPiece(0, None, piece)] for piece in said[3:5]]
    assert [pieces for _, pieces in told] == [[], [], begun, *more, []]
    assert [text for text, _ in told] == ["", "", "", "", "", "Done"]


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["I look. <to", "tal"], ["I look. ", "<total"]),
        (['{"an', 'swer": {"name": "ra'], ['{"an', 'swer": {"name": "ra']),
        (['{"', 'name": "r', "oo", 'm"'], ["", "", '{"name": "roo', 'm"']),
        (["[", "1", ", 2"], ["", "[1", ", 2"]),
        (["``", "`", "py"], ["", "", "```py"]),
        (["```json\n", '{"na', 'il": 1}'], ["", "", '```json\n{"nail": 1}']),
    ],
)
def test_text_flows_as_soon_as_it_cannot_be_a_call(pieces: list[str], shown: list[str]) -> None:
    stream = stream_of()
    assert [stream.push(piece) for piece in pieces] == [(text, []) for text in shown]


@pytest.mark.parametrize("end", [HERMES, f" {LLAMA}", "and more"])
def test_after_the_only_call_nothing_counts(end: str) -> None:
    call = '<tool_call>{"name": "rain", "arguments": {"city": "</tool_call>"}}</tool_call>'
    tagged = ("rain", '{"city": "</tool_call>"}')
    assert read_at_every_cut(f"Well. {call}{end}", once=True) == ("Well. ", [tagged], True)
    stream = stream_of(once=True)
    stream.push(call[:-20])
    assert not stream.is_over
    stream.push(call[-20:] + end)
    assert stream.is_over


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "rain", "arguments": {"city": "Kö', '{"city": "Kö'),
        ('{"name": "rain", "arguments": {"city": Köln}}', '{"city": Köln}'),
        ('{"name": "rain", "arguments": {"city": NaN}}', '{"city": NaN}'),
        ('<tool_call>{"name": "rain", "arguments": {]}</tool_call>', "{]"),
        ("<function=rain>\n<parameter=city>\nKö", "{"),
    ],
)
def test_calls_whose_arguments_are_not_json_are_not_whole(text: str, arguments: str) -> None:
    _, calls, are_whole = read_at_every_cut(text)
    assert calls == [("rain", arguments)]
    assert not are_whole


def test_line_breaks_inside_strings_are_escaped() -> None:
    _, [(_, arguments)], are_whole = read_at_every_cut('{"name": "rain", "arguments": {"city":\n"a\n\t\\"b"}}')
    assert json.loads(arguments) == {"city": 'a\n\t"b'}
    assert are_whole


SCRAPS = [
    *sorted(CONTROLS),
    *("<function=rain>", "<parameter=city>", "</parameter>", "</function>", "<arg_key>", "</arg_key>", "<arg_value>"),
    *("rain", "sun", "{", "}", "[", "]", "(", ")", '"', "\\", ":", ",", ";", "=", "\n", " ", "```", "```json"),
    *('"name"', '"arguments"', '"parameters"', '{"name": "rain", "arguments": {', "null", "1", "é", "\ud800", "\0"),
    *("<|channel|>commentary to=functions.", HERMES, LLAMA, CODER, "[rain(city='a'), sun()]", "function"),
]
BEFORE = [
    *sorted({mark for reader in stream_of()._readers for mark in reader.marks}),
    *("", "[rain(city=", '{"name": "rain", "arguments": ', '{"arguments": ', "<function=rain><parameter=days>"),
    *("<tool_call>rain<arg_key>days</arg_key><arg_value>", "<|tool_call_start|>[rain(city="),
]
OPENINGS = [
    *("{", "[", "(", '"', "'", "\\", "<", "`", "-", "~", "not ", "lambda: ", "{**", 'f"{', "rain(", "[rain(city="),
    *('{"a":', '{"function":', '{"name": "rain", "function":', '{"type": "function", "function": {', '{"arguments":'),
]


@pytest.mark.parametrize("opening", OPENINGS)
def test_nothing_is_too_deep(opening: str) -> None:
    for before in BEFORE:
        text = before + opening * 500
        assert read([text[:60], text[60:]]) == read([text])


TEXTS = st.lists(st.sampled_from(SCRAPS) | st.text(max_size=4), max_size=12).map("".join)


@given(TEXTS, st.data(), st.booleans())
def test_nothing_raises_and_cuts_do_not_matter(text: str, data: st.DataObject, once: bool) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces, once=once) == read([text], once=once)


@given(TEXTS)
def test_no_character_is_lost_unless_it_is_in_a_call(text: str) -> None:
    shown, calls, _ = read([text])
    if not calls:
        assert shown == text
    characters = iter(text)
    assert all(character in characters for character in shown)  # in the same order


@given(TEXTS)
def test_whole_calls_have_arguments_that_every_client_can_read(text: str) -> None:
    _, calls, are_whole = read([text])
    if are_whole:
        assert all(name in TOOLS and isinstance(json.loads(arguments), dict) for name, arguments in calls)


def test_a_long_answer_is_read_in_proportion_to_its_length() -> None:
    """Marks inside what seemed to be a call do not make the parser begin again and again."""
    text = '<tool_call>{"arguments": {"a": "' * 3000
    assert read([text]) == (text, [], False)
