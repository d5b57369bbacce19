import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest

from kit.calls import read
from potluck.coordinator.generation import grammar, trial
from potluck.coordinator.generation.grammar import Grammar, Grammars
from potluck.coordinator.generation.structure import Kind, Structure
from potluck.coordinator.text.calls.registry import CONTROLS, dialect_named
from potluck.errors import RequestError

END = 256


class Bytes:
    """A tokenizer of one token a byte, and one that ends an answer."""

    vocabulary = 257
    stop_ids: frozenset[int] = frozenset({END})
    bos = eos = ""
    chat_template = None
    tool_template = None

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if token == END:
            return b"<end>" if special else b""
        return bytes([token])

    def name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")


class Endless(Bytes):
    """No token ends an answer."""

    vocabulary = 256
    stop_ids = frozenset()


GRAMMARS = Grammars(Bytes())
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def of_schema(grammars: Grammars, schema: dict[str, Any]) -> Grammar:
    return grammars.of(Structure(Kind.SCHEMA, schema, "response_format"))


def fits(schema: dict[str, Any], text: str, grammars: Grammars = GRAMMARS) -> bool:
    """Whether every byte of the text is allowed where it comes, and its end too."""
    return is_allowed(of_schema(grammars, schema), text)


def is_allowed(grammar: Grammar, text: str) -> bool:
    return are_allowed(grammar, list(text.encode()))


def are_allowed(grammar: Grammar, tokens: Sequence[int]) -> bool:
    constraint = grammar.start()
    for token in tokens:
        if token not in constraint.allowed():
            return False
        constraint.accept(token)
    return constraint.is_complete or END in constraint.allowed()


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object"}, '{"a": [1, null, {"b": "ü"}]}'),
        ({"type": "object"}, json.dumps({"a": {"b": 1}}, indent=2)),
        (PERSON, '{"name": "Ann", "age": 3}'),
        ({"enum": ["red", "blue"]}, '"red"'),
        ({"type": "integer"}, "12"),
    ],
)
def test_what_a_schema_describes_is_allowed(schema: dict[str, Any], text: str) -> None:
    assert fits(schema, text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "object"}, "[1]"),
        ({"type": "object"}, '{"a": 1'),
        ({"type": "object"}, "{" + " " * 50 + "}"),
        (PERSON, '{"name": "Ann"}'),
        (PERSON, '{"name": "Ann", "age": "3"}'),
        ({"enum": ["red", "blue"]}, '"green"'),
    ],
)
def test_nothing_else_is(schema: dict[str, Any], text: str) -> None:
    assert not fits(schema, text)


def test_tokens_that_are_no_text_are_allowed_only_as_the_end() -> None:
    constraint = of_schema(GRAMMARS, {"type": "integer"}).start()
    assert END not in constraint.allowed()
    constraint.accept(ord("1"))
    assert END in constraint.allowed()
    assert not constraint.is_complete


def test_it_is_complete_when_nothing_can_follow() -> None:
    constraint = of_schema(GRAMMARS, {"enum": ["a"]}).start()
    for byte in b'"a"':
        assert not constraint.is_complete
        assert byte in constraint.allowed()
        constraint.accept(byte)
    assert constraint.is_complete


def test_answers_of_one_grammar_do_not_disturb_each_other() -> None:
    grammar = of_schema(GRAMMARS, {"enum": ["a", "b"]})
    one, other = grammar.start(), grammar.start()
    one.accept(ord('"'))
    assert one.allowed().tolist() == [ord("a"), ord("b")]
    assert other.allowed().tolist() == [ord('"')]


def test_a_model_without_an_end_is_never_told_to_end() -> None:
    grammars = Grammars(Endless())
    constraint = of_schema(grammars, {"type": "integer"}).start()
    constraint.accept(ord("1"))
    assert np.isin(constraint.allowed(), range(256)).all()
    assert fits({"enum": ["a"]}, '"a"', grammars)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "string", "pattern": "("},
        {"$ref": "#/nowhere"},
        {"enum": []},
        {"not": {}},
        {"type": "string", "minLength": 5, "maxLength": 2},
    ],
)
def test_a_schema_that_is_not_understood_is_refused_in_a_sentence(schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"^This structure cannot be enforced: [^\n]+\.$") as caught:
        of_schema(GRAMMARS, schema)
    assert caught.value.param == "response_format"


def test_a_schema_that_would_take_a_processor_for_minutes_is_refused_in_time() -> None:
    with pytest.raises(RequestError, match="takes too long"):
        of_schema(GRAMMARS, {"type": "integer", "multipleOf": 9999991})


def test_a_schema_that_would_take_all_memory_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "LONGEST_S", 1.0)
    schema = {"allOf": [{"type": "string", "pattern": f"^.*x{number}.*$"} for number in range(30)]}
    for make in (
        partial(of_schema, GRAMMARS),
        lambda one: GRAMMARS.of_calls(dialect_named("hermes"), {"rain": one}, several=False),
    ):
        with pytest.raises(RequestError, match="takes too long"):
            make(schema)


def test_a_schema_that_failed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars, sources = Grammars(Bytes()), list[str]()

    def fails(source: str) -> bool | None:
        sources.append(source)
        return answers.pop()

    monkeypatch.setattr(grammar, "is_quick", fails)
    answers = [False, None]  # first the clock, which says little about the schema
    for _ in range(4):
        with pytest.raises(RequestError, match="takes too long"):
            of_schema(grammars, {"type": "integer", "multipleOf": 99999989})
    assert len(sources) == 2


def test_a_long_text_that_must_come_costs_little_a_token() -> None:
    """Only its beginning is tokenized, and what is allowed next is the same."""
    asked = list[str]()

    class Noting(Bytes):
        def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
            asked.append(text)
            return super().encode(text, special=special, bos=bos)

    text = json.dumps("é long " * 1000, ensure_ascii=False)
    constraint = of_schema(Grammars(Noting()), {"enum": [json.loads(text)]}).start()
    for byte in text.encode()[:3000]:
        assert constraint.allowed().tolist() == [byte]
        constraint.accept(byte)
    assert max(map(len, asked)) == grammar._FIRST_FORCED


class Pairs(Bytes):
    """Two more tokens, which the tokenizer takes whenever it can: `"{` and `}"`."""

    vocabulary = 259
    more = {257: b'"{', 258: b'}"'}

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        whole, tokens = text.encode(), list[int]()
        while whole:
            token = next((token for token, piece in self.more.items() if whole.startswith(piece)), whole[0])
            tokens.append(token)
            whole = whole[len(self.piece(token)) :]
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self.more.get(token) or super().piece(token, special=special)


@pytest.mark.parametrize("most", [257, 258, 259])
def test_tokens_that_only_the_tokenizer_has_are_never_allowed(most: int) -> None:
    """Neither where they may come, nor where a text must come that begins or ends with one."""
    grammars = Grammars(Pairs(), most)
    assert max(of_schema(grammars, {"enum": ["{b}", "{c"]}).start().allowed()) == (257 if most > 257 else ord('"'))
    constraint = of_schema(grammars, {"enum": ["{a}"]}).start()
    tokens = list[int]()
    while not constraint.is_complete:
        [token] = constraint.allowed().tolist()
        constraint.accept(token)
        tokens.append(token)
    begin, end = [257] if most > 257 else [*b'"{'], [258] if most > 258 else [*b'}"']
    assert tokens == [*begin, ord("a"), *end]


def test_the_end_of_an_answer_that_only_the_tokenizer_has_is_never_allowed() -> None:
    assert fits({"enum": ["a"]}, '"a"', Grammars(Bytes(), END))
    constraint = of_schema(Grammars(Bytes(), END), {"type": "integer"}).start()
    constraint.accept(ord("1"))
    assert END not in constraint.allowed()


@pytest.mark.parametrize("length", [grammar._MOST_FORCED + 1, 1_000_000])
def test_a_text_that_is_too_long_to_demand_is_refused_in_a_sentence(length: int) -> None:
    with pytest.raises(
        RequestError, match=r"^(This structure cannot be enforced: |The structure is longer)[^\n]{1,300}\.$"
    ):
        of_schema(GRAMMARS, {"enum": ["a" * length]})
    other = {"type": "object", "properties": {"a": {"type": "string", "pattern": f"^a{{{length}}}$"}}}
    with pytest.raises(RequestError, match=r"^This structure cannot be enforced: [^\n]{1,300}\.$"):
        fits(other, json.dumps({"a": "a" * length}))


def test_what_was_made_in_time_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    of_schema(GRAMMARS, {"enum": ["known"]})
    monkeypatch.setattr(trial, "LONGEST_S", 0.0)
    assert fits({"enum": ["known"]}, '"known"')
    with pytest.raises(RequestError, match="takes too long"):
        of_schema(GRAMMARS, {"enum": ["unknown"]})


@pytest.mark.parametrize("depth", [300, 5000])
def test_a_schema_without_bottom_is_refused(depth: int) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    with pytest.raises(RequestError, match="nested too deeply"):
        of_schema(GRAMMARS, schema)


TOOLS = {
    "rain": {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"city": {"enum": ["Köln", "Rom"]}},
    },
    'a "b"': {"type": "object", "additionalProperties": False},
}
RAIN = '<tool_call>\n{"name": "rain", "arguments": {"city": "Köln"}}\n</tool_call>'
ODD = '<tool_call>\n{"name": "a \\"b\\"", "arguments": {}}\n</tool_call>'
LLAMA = '{"name": "rain", "parameters": {"city": "Rom"}}'


@pytest.mark.parametrize(
    ("form", "several", "fits"),
    [
        ("hermes", False, {RAIN: True, ODD: True, f"{RAIN}\n{ODD}": False, RAIN.replace("Köln", "Bonn"): False}),
        ("hermes", True, {RAIN: True, f"{RAIN}\n{ODD}": True, "": False, "I look.": False, LLAMA: False}),
        ("llama", True, {LLAMA: True, f"{LLAMA}\n{LLAMA}": False, LLAMA.replace("rain", "snow"): False}),
    ],
)
def test_calls_keep_to_the_form_and_to_the_parameters(form: str, several: bool, fits: dict[str, bool]) -> None:
    grammar = GRAMMARS.of_calls(dialect_named(form), TOOLS, several=several)
    assert {text: is_allowed(grammar, text) for text in fits} == fits


MARKS = sorted(CONTROLS)
CONTROL = re.compile("|".join(map(re.escape, MARKS)))


class Marked(Bytes):
    """The marks of calls are control tokens."""

    vocabulary = END + 1 + len(MARKS)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if token <= END:
            return super().piece(token, special=special)
        return MARKS[token - END - 1].encode() if special else b""


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


def with_controls(text: str) -> list[int]:
    """The tokens of a text whose marks are control tokens."""
    marks = [END + 1 + MARKS.index(found[0]) for found in CONTROL.finditer(text)]
    parts = [as_bytes(part) for part in CONTROL.split(text)]
    return [token for part, mark in zip(parts, [*([mark] for mark in marks), []], strict=True) for token in part + mark]


FORECAST: dict[str, Any] = {
    "rain": {
        "type": "object",
        "properties": {
            "city": {"enum": ["Köln", "Rom"]},
            "note": {"type": "string"},
            "days": {"type": "integer"},
            "where": {"$ref": "#/$defs/where"},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"where": {"type": "array", "items": {"type": "number"}}},
    },
    "sun": {"type": "object", "additionalProperties": False},
}
ASKED = {"city": "Köln", "note": "a <b>", "days": 3, "where": [1, 2.5]}
GIVEN = json.dumps(ASKED, ensure_ascii=False)
BEGIN, CALL, SEP, DONE, CLOSE = (
    f"<\uff5ctool▁{word}\uff5c>" for word in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")
)
TAGGED = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in ASKED.items())
KEYED = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in ASKED.items())
LISTED = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in ASKED.items())
WRITTEN = {
    "hermes": (
        f'<tool_call>\n{{"name": "rain", "arguments": {GIVEN}}}\n</tool_call>\n',
        '<tool_call>\n{"name": "sun", "arguments": {}}\n</tool_call>',
    ),
    "llama": (f'{{"name": "rain", "parameters": {GIVEN}}}', ""),
    "generic": (f'{{"name": "rain", "arguments": {GIVEN}}}\n', '{"name": "sun", "arguments": {}}'),
    "mistral": (f'[TOOL_CALLS][{{"name": "rain", "arguments": {GIVEN}}}, ', '{"name": "sun", "arguments": {}}]'),
    "mistral-args": (f"[TOOL_CALLS]rain[ARGS]{GIVEN}", "[TOOL_CALLS]sun[ARGS]{}"),
    "deepseek": (
        f"{BEGIN}{CALL}function{SEP}rain\n```json\n{GIVEN}\n```{DONE}\n",
        f"{CALL}function{SEP}sun\n```json\n{{}}\n```{DONE}{CLOSE}",
    ),
    "deepseek-bare": (f"{BEGIN}{CALL}rain{SEP}{GIVEN}{DONE}", f"{CALL}sun{SEP}{{}}{DONE}{CLOSE}"),
    "kimi": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.rain:0<|tool_call_argument_begin|>"
        f"{GIVEN}<|tool_call_end|><|tool_calls_section_end|>",
        "",
    ),
    "granite": (f'<|tool_call|>[{{"name": "rain", "arguments": {GIVEN}}}, ', '{"name": "sun", "arguments": {}}]'),
    "nemotron": (
        f'<TOOLCALL>[{{"name": "rain", "arguments": {GIVEN}}}, ',
        '{"name": "sun", "arguments": {}}]</TOOLCALL>',
    ),
    "harmony": (f"<|channel|>commentary to=functions.rain <|constrain|>json<|message|>{GIVEN}", ""),
    "coder": (
        f"<tool_call>\n<function=rain>\n{TAGGED}</function>\n</tool_call>\n",
        "<tool_call>\n<function=sun>\n</function>\n</tool_call>",
    ),
    "glm": (f"<tool_call>rain\n{KEYED}</tool_call>\n", "<tool_call>sun\n</tool_call>"),
    "pythonic": (f"[rain({LISTED}), ", "sun()]"),
}
"""A call in each dialect, and another one where there may be several."""


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(("tokenizer", "tokens"), [(Bytes(), as_bytes), (Marked(), with_controls)])
def test_calls_of_every_dialect_can_be_demanded_and_read(
    name: str, tokenizer: Bytes, tokens: Callable[[str], list[int]]
) -> None:
    grammar = Grammars(tokenizer).of_calls(dialect_named(name), FORECAST, several=True)
    first, more = WRITTEN[name]
    assert are_allowed(grammar, tokens(first + more))
    for wrong in (first.replace("Köln", "Bonn"), first.replace("rain", "snow"), "I look.", ""):
        assert not are_allowed(grammar, tokens(wrong + more if wrong else wrong))
    if tokenizer.vocabulary > END + 1 and CONTROL.search(first):
        assert not are_allowed(grammar, as_bytes(first + more))
    text, calls, are_whole = read(list(first + more), FORECAST)
    assert (text, are_whole) == ("", True)
    expected: list[tuple[str, dict[str, Any]]] = [("rain", ASKED), *([("sun", {})] if more else [])]
    assert [(called, json.loads(arguments)) for called, arguments in calls] == expected


FEWEST = {
    "coder": "<tool_call>\n<function=rain>\n<parameter=city>\nRom\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>rain\n<arg_key>city</arg_key>\n<arg_value>Rom</arg_value>\n</tool_call>",
    "pythonic": '[rain(city="Rom")]',
}
TOO_FEW = {
    "coder": "<tool_call>\n<function=rain>\n</function>\n</tool_call>",
    "glm": "<tool_call>rain\n</tool_call>",
    "pythonic": "[rain()]",
}


@pytest.mark.parametrize("name", FEWEST)
def test_arguments_may_be_left_out_unless_they_are_required(name: str) -> None:
    grammar = GRAMMARS.of_calls(dialect_named(name), FORECAST, several=False)
    assert is_allowed(grammar, FEWEST[name])
    assert not is_allowed(grammar, TOO_FEW[name])
    assert not is_allowed(grammar, FEWEST[name] + FEWEST[name])


@pytest.mark.parametrize("name", FEWEST)
def test_parameters_that_a_dialect_cannot_write_are_refused_in_a_sentence(name: str) -> None:
    schema = {"type": "object", "anyOf": [{"properties": {"a": {}}}]}
    with pytest.raises(RequestError, match="The parameters of rain cannot be demanded") as caught:
        GRAMMARS.of_calls(dialect_named(name), {"rain": schema}, several=False)
    assert caught.value.param == "tools"


@pytest.mark.parametrize("bounds", [{"minLength": 2, "maxLength": 3}, {"minLength": 2}, {"maxLength": 3}])
def test_texts_between_tags_are_as_long_as_they_may_be(bounds: dict[str, int]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", **bounds}}, "required": ["a"]}
    grammar = GRAMMARS.of_calls(dialect_named("glm"), {"f": schema}, several=False)
    for length in range(6):
        text = f"<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{'x' * length}</arg_value>\n</tool_call>"
        assert is_allowed(grammar, text) is (bounds.get("minLength", 0) <= length <= bounds.get("maxLength", 9))


def test_parameters_that_are_not_understood_are_refused() -> None:
    with pytest.raises(RequestError) as caught:
        GRAMMARS.of_calls(dialect_named("hermes"), {"rain": {"type": "object", "$ref": "#/nowhere"}}, several=False)
    assert caught.value.param == "tools"
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(RequestError, match="nested too deeply"):
        GRAMMARS.of_calls(dialect_named("hermes"), {"rain": deep}, several=False)


GBNF = """\
# a date
root  ::= year "-" month
year  ::= [0-9]{4}
month ::= "01" | "02"
"""
LARK = 'start: "a" b+\nb: "b" | "c"\n'


@pytest.mark.parametrize(
    ("kind", "source", "fits", "misses"),
    [
        (Kind.REGEX, r"[a-c]{2}\d", ["ab1", "cc9"], ["ab", "abc", "ab12"]),
        (Kind.REGEX, "yes|no", ["yes", "no"], ["y", "maybe"]),
        (
            Kind.CHOICE,
            ["red", "green", 'a "quote" \\ and\na line'],
            ["red", 'a "quote" \\ and\na line'],
            ["re", "blue"],
        ),
        (Kind.CHOICE, ["🥘"], ["🥘"], ["x"]),
        (Kind.GRAMMAR, GBNF, ["2026-01", "1999-02"], ["2026-03", "26-01"]),
        (Kind.GRAMMAR, LARK, ["ab", "abcb"], ["a", "b"]),
        (Kind.SCHEMA, {"type": "integer"}, ["12"], ["x"]),
    ],
)
def test_a_structure_allows_what_it_describes(kind: Kind, source: object, fits: list[str], misses: list[str]) -> None:
    grammar = GRAMMARS.of(Structure(kind, source, "p"))
    assert all(is_allowed(grammar, text) for text in fits)
    assert not any(is_allowed(grammar, text) for text in misses)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        (Kind.REGEX, "(unclosed"),
        (Kind.GRAMMAR, "root ::= ]"),
        (Kind.GRAMMAR, 'root ::= "a" missing'),
        (Kind.GRAMMAR, "no grammar at all"),
        (Kind.GRAMMAR, "root ::= " + "(" * 5000),
        (Kind.GRAMMAR, "root ::= " + '"a" ' * 5000),
        (Kind.GRAMMAR, 'start: "' + "a" * (1 << 19) + '"'),
        (Kind.CHOICE, ["x" * (1 << 19)]),
        (Kind.SCHEMA, {"type": "nothing"}),
    ],
)
def test_a_structure_that_is_not_understood_is_refused_in_a_sentence(kind: Kind, source: object) -> None:
    with pytest.raises(RequestError, match=r"^[A-Z][^\n]{1,400}\.$") as caught:
        GRAMMARS.of(Structure(kind, source, "guided_x"))
    assert (caught.value.status, caught.value.param) == (400, "guided_x")


SHORT = {"type": "string", "maxLength": 4}
WALKED: dict[str, Any] = {
    **FORECAST,
    "any": {
        "type": "object",
        "properties": {
            "text": SHORT,
            "maybe": {"anyOf": [SHORT, {"type": "null"}]},
            "either": {"type": ["string", "integer"], "maxLength": 4},
            "flag": {"type": "boolean"},
            "map": {"type": "object", "additionalProperties": SHORT, "maxProperties": 1},
        },
        "required": ["text", "flag"],
        "additionalProperties": False,
    },
}
WALKED["rain"] = {**WALKED["rain"], "properties": {**WALKED["rain"]["properties"], "note": SHORT}}


def walk(grammar: Grammar, random: Random) -> str | None:
    """A text that the grammar allows, in which marks and quotes are likely; None if it does not come to its end."""
    constraint, written = grammar.start(), bytearray()
    while len(written) < 1500:
        allowed = constraint.allowed().tolist() if not constraint.is_complete else [END]
        if END in allowed and (len(allowed) == 1 or random.random() < 0.5):
            return written.decode("utf-8", "replace")
        more = [byte for byte in allowed if byte != END]
        written.append(random.choice([byte for byte in more if byte in b"aei12}])>\"'\\</{[,\n"] or more))
        constraint.accept(written[-1])
    return None


@pytest.mark.parametrize("name", WRITTEN)
def test_whatever_a_dialect_demands_is_read_as_calls_with_fitting_arguments(name: str) -> None:
    grammar = GRAMMARS.of_calls(dialect_named(name), WALKED, several=True)
    texts = [text for seed in range(20) if (text := walk(grammar, Random(seed))) is not None]
    assert texts
    schemas = {called: of_schema(GRAMMARS, schema) for called, schema in WALKED.items()}
    for text in texts:
        shown, calls, are_whole = read([text], WALKED)
        assert (shown, are_whole) == ("", True)
        for called, arguments in calls:
            assert is_allowed(schemas[called], arguments)
