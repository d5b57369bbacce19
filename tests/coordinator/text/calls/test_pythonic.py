import json
from typing import Any

import pytest

from kit.calls import KOELN, SUN, read, read_at_every_cut


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('[rain(city="Köln")]', [KOELN]),
        ("[rain(city='Köln'), sun()]", [KOELN, SUN]),
        ('[ rain( city = "Köln" ) ]', [KOELN]),
        ("<|python_start|>[sun()]<|python_end|>", [SUN]),
        ('<|tool_call_start|>[rain(city="Köln")]<|tool_call_end|>', [KOELN]),
        ('[rain("Köln")]', [KOELN]),
        ("[sun()", [SUN]),
    ],
)
def test_calls_are_read_wherever_they_are_cut(text: str, calls: list[tuple[str, str]]) -> None:
    assert read_at_every_cut(text) == ("", calls, True)
    assert read_at_every_cut(text, {"snow": {}}) == (text, [], False)
    assert read_at_every_cut(text, once=True) == ("", calls[:1], True)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("-1.5", -1.5),
        ("None", None),
        ("true", True),
        ("[null, False]", [None, False]),
        ("{'a': (1, 2)}", {"a": [1, 2]}),
        ("'it\\'s (])'", "it's (])"),
        ('"a\\nb"', "a\nb"),
        ('"\\ud83d\\ude00"', "😀"),
        ('"a\nb"', "a\nb"),
    ],
)
def test_arguments_are_literals(source: str, value: Any) -> None:
    shown, [(_, arguments)], are_whole = read_at_every_cut(f"[rain(x={source})]")
    assert (shown, are_whole) == ("", True)
    assert json.loads(arguments) == {"x": value}


@pytest.mark.parametrize(
    "arguments",
    [
        "city=Köln",
        "city=open('x')",
        "**{'a': 1}",
        "*[1]",
        "1, 2, 3",
        "city=",
        "city=b'x'",
        "city={1}",
        "city=1e999",
        "city=" + "9" * 5000,
        "city=" + "(" * 300 + ")" * 300,
        "city=" + "-" * 70_000 + "1",
        "city='\\x'",
        "city='" + "a" * 70_000 + "'",
        "city=[" + "0," * 5000 + "]",
        "city=[" + "''," * 5000 + "]",
        "city=f'" + "{1}" * 3000 + "'",
        "city=f'' + '" + "{1}" * 3000 + "'",
        "\0",
    ],
)
def test_what_is_no_literal_is_no_call(arguments: str) -> None:
    text = f"[rain({arguments})]"
    assert read([text]) == read(list(text)) == (text, [], False)


def test_long_texts_are_read_and_long_lists_are_not() -> None:
    """Python reads a list for so long that everybody would wait for it."""
    text = "[0], 'it''s (1, 2)' " * 2500
    shown, [(_, arguments)], are_whole = read([f"[rain(city={json.dumps(text)})]"])
    assert (shown, json.loads(arguments), are_whole) == ("", {"city": text}, True)
    numbers = ",".join("0" * 4000)
    shown, [(_, arguments)], are_whole = read([f"[rain(city=[{numbers}])]"])
    assert (shown, json.loads(arguments), are_whole) == ("", {"city": [0] * 4000}, True)
    long = f"[rain(city=[{numbers},{numbers}])]"
    assert read([long]) == (long, [], False)
