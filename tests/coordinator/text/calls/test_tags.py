"""The dialects with an argument between tags, in the words of the templates of Qwen3-Coder and GLM."""

import json
from typing import Any

import pytest

from kit.calls import KOELN, SUN, read_at_every_cut

CODER = "<tool_call>\n<function=rain>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>"
GLM = "<tool_call>rain\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (CODER, [KOELN]),
        (f"{CODER}\n{CODER}", [KOELN, KOELN]),
        (CODER.removeprefix("<tool_call>\n"), [KOELN]),
        (CODER.removesuffix("\n</function>\n</tool_call>"), [KOELN]),
        (CODER.replace("\n", ""), [KOELN]),
        ("<tool_call>\n<function=sun>\n</function>\n</tool_call>", [SUN]),
        (GLM, [KOELN]),
        (f"{GLM}\n{GLM}", [KOELN, KOELN]),
        (GLM.replace("\n", ""), [KOELN]),
        ("<tool_call>sun\n</tool_call>", [SUN]),
        ("<tool_call>sun</tool_call>", [SUN]),
    ],
)
def test_calls_are_read_wherever_they_are_cut(text: str, calls: list[tuple[str, str]]) -> None:
    assert read_at_every_cut(text) == ("", calls, True)
    assert read_at_every_cut(text, {"snow": {}}) == (text, [], False)
    assert read_at_every_cut(text, once=True) == ("", calls[:1], True)


@pytest.mark.parametrize("text", ["<function=rain> asks the weather.", "<tool_call>rain\nand sun", "<function=rain"])
def test_a_name_without_what_must_follow_is_text(text: str) -> None:
    assert read_at_every_cut(text) == (text, [], False)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": "number"},
        "flag": {"type": "boolean"},
        "list": {"type": "array"},
        "map": {"type": "object"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"type": ["string", "integer"]},
        "one": {"enum": ["1", "2"]},
        "other": {"$ref": "#/$defs/text"},
        "any": {},
    },
    "$defs": {"text": {"type": "string"}},
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "5", "5"),
        ("text", "null", "null"),
        ("text", "a\nb\n", "a\nb\n"),
        ("text", "", ""),
        ("text", '"a"', '"a"'),
        ("text", "<b>&lt;</parameter> and </arg_value> in it", "<b>&lt;</parameter> and </arg_value> in it"),
        ("text", "</tool_call>", "</tool_call>"),
        ("count", "5", 5),
        ("count", "five", "five"),
        ("share", "0.5", 0.5),
        ("flag", "true", True),
        ("flag", "False", False),
        ("list", '[1, {"a": null}]', [1, {"a": None}]),
        ("list", "['a', True]", ["a", True]),
        ("map", '{"a": "ü"}', {"a": "ü"}),
        ("maybe", "null", None),
        ("maybe", "5", "5"),
        ("either", "5", 5),
        ("either", '"5"', '"5"'),
        ("one", "1", "1"),
        ("other", "5", "5"),
        ("any", "5", 5),
        ("any", "five", "five"),
        ("any", "1e999", float("inf")),
        ("any", "NaN", "NaN"),
        ("unknown", "[]", []),
    ],
)
def test_arguments_are_text_or_json_as_their_schema_says(key: str, text: str, value: Any) -> None:
    coder = f"<function=f>\n<parameter={key}>\n{text}\n</parameter>\n</function>"
    glm = f"<tool_call>f\n<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>"
    for answer in (coder, glm):
        shown, [(_, arguments)], are_whole = read_at_every_cut(answer, {"f": SCHEMA})
        assert (shown, are_whole) == ("", True)
        assert json.loads(arguments) == {key: value}


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": 5},
        {"properties": {"a": 5, "b": None}},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"properties": {"a": {"$ref": 5, "anyOf": "x", "type": [3], "enum": 4}}},
        {"properties": {"a": {"type": "object", "const": {}}}},
    ],
)
def test_schemas_may_be_any_json(schema: dict[str, Any]) -> None:
    answer = "<function=f><parameter=a>\nx\n</parameter></function>"
    assert read_at_every_cut(answer, {"f": schema}) == ("", [("f", '{"a": "x"}')], True)


@pytest.mark.parametrize(
    "cut", ["<parameter=da", "<parameter=days>\n", "<parameter=days>\n3", "<parameter=days>\n3</par"]
)
def test_a_call_that_is_broken_off_in_an_argument_is_not_whole(cut: str) -> None:
    text = CODER.removesuffix("</function>\n</tool_call>") + cut
    shown, [(name, arguments)], are_whole = read_at_every_cut(text)
    assert (shown, name, arguments, are_whole) == ("", "rain", '{"city": "Köln"', False)
