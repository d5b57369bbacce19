import json
import re
from functools import cache

import pytest

from kit.calls import read
from potluck.coordinator.generation.grammar import Grammar, Grammars
from potluck.coordinator.generation.structure import Kind, Structure
from potluck.coordinator.text.calls.registry import dialect_named
from potluck.coordinator.text.thinking import Place, Thinking, ThinkingStream

FINAL = "<|start|>assistant<|channel|>final<|message|>"


class Tokens:
    """A tokenizer of one token a byte, and these control tokens; the last one ends an answer."""

    bos = eos = ""
    chat_template = None
    tool_template = None

    def __init__(self, *controls: str) -> None:
        self.controls = (*controls, "<end>")
        self.vocabulary = 256 + len(self.controls)
        self.stop_ids = frozenset({self.vocabulary - 1})

    def encode(self, text: str, *, special: bool, bos: bool) -> list[int]:
        return list(text.encode())

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return bytes([token]) if token < 256 else self.controls[token - 256].encode() if special else b""

    def name(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace")


CONTROLS: dict[Thinking, tuple[str, ...]] = {
    Thinking.THINK: ("<think>", "</think>"),
    Thinking.HARMONY: ("<|channel|>", "<|message|>", "<|end|>", "<|start|>"),
    Thinking.SOLAR: ("<|think|>", "<|content|>", "<|end|>", "<|begin|>"),
}
OBJECT = Structure(Kind.SCHEMA, {"type": "object"}, "response_format")
WORDS = Structure(Kind.REGEX, "(yes|no)", "guided_regex")


@cache
def grammars_of(kind: Thinking, has_controls: bool) -> tuple[Grammars, Tokens]:
    tokens = Tokens(*CONTROLS[kind]) if has_controls else Tokens()
    return Grammars(tokens), tokens


def grammar_of(kind: Thinking, structure: Structure, *, is_open: bool, has_controls: bool) -> tuple[Grammar, Tokens]:
    grammars, tokens = grammars_of(kind, has_controls)
    return grammars.after_thinking(grammars.of(structure), kind.value, is_open=is_open), tokens


def is_allowed(grammar: Grammar, tokens: Tokens, text: str) -> bool:
    """Whether every token of the text is allowed where it comes, and its end too."""
    constraint = grammar.start()
    names = "|".join(map(re.escape, tokens.controls))
    for part in re.findall(f"{names}|.", text, re.DOTALL):
        ids = [256 + tokens.controls.index(part)] if part in tokens.controls else list(part.encode())
        for token in ids:
            if token not in constraint.allowed():
                return False
            constraint.accept(token)
    return constraint.is_complete or not tokens.stop_ids.isdisjoint(constraint.allowed().tolist())


@pytest.mark.parametrize("has_controls", [False, True])
@pytest.mark.parametrize(
    ("kind", "is_open", "text", "allowed"),
    [
        (Thinking.THINK, True, 'I say {"no": 1\n</think>\n\n{"a": "ü"}', True),
        (Thinking.THINK, True, "</think>{}", True),
        (Thinking.THINK, True, "{}", False),  # still thinking
        (Thinking.THINK, True, "I muse</think>Answer", False),
        (Thinking.THINK, True, "I muse</think>{} and more", False),
        (Thinking.THINK, True, "Grüße </thin</think>{}", True),
        (Thinking.THINK, False, "{}", True),
        (Thinking.THINK, False, "<think>I muse</think>{}", True),
        (Thinking.THINK, False, "<think>I muse", False),
        (Thinking.THINK, False, "I muse</think>{}", False),
        (Thinking.HARMONY, False, f"<|channel|>analysis<|message|>hm {{}}<|end|>{FINAL}{{}}", True),
        (Thinking.HARMONY, False, "<|channel|>final<|message|>{}", True),
        (Thinking.HARMONY, False, "<|channel|>final<|message|>Answer", False),
        (Thinking.HARMONY, True, f"hm<|end|>{FINAL}{{}}", True),
        (Thinking.SOLAR, False, "<|think|>hm<|end|><|begin|>assistant<|content|>{}", True),
    ],
)
def test_the_form_holds_after_thinking(
    kind: Thinking, is_open: bool, text: str, allowed: bool, has_controls: bool
) -> None:
    grammar, tokens = grammar_of(kind, OBJECT, is_open=is_open, has_controls=has_controls)
    assert is_allowed(grammar, tokens, text) is allowed
    if allowed:
        stream = ThinkingStream(kind.value, Place.OPENED if is_open else Place.BEFORE)
        said = stream.push(text)[1] + stream.finish()[1]
        assert said.startswith("{")
        assert said.endswith("}")


@pytest.mark.parametrize(("text", "allowed"), [("hm</think>yes", True), ("hm</think>perhaps", False), ("yes", False)])
def test_any_form_can_follow(text: str, allowed: bool) -> None:
    grammar, tokens = grammar_of(Thinking.THINK, WORDS, is_open=True, has_controls=True)
    assert is_allowed(grammar, tokens, text) is allowed
    assert grammar.param == "guided_regex"


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}", True),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}",
            True,
        ),
        ("<|channel|>final<|message|><|channel|>commentary to=functions.f <|constrain|>json<|message|>{}", False),
    ],
)
def test_a_call_in_a_channel_of_its_own_follows_thinking_without_the_channel_of_the_answer(
    text: str, allowed: bool
) -> None:
    dialect, marks = dialect_named("harmony"), Thinking.HARMONY.value
    tokens = Tokens(*CONTROLS[Thinking.HARMONY], "<|constrain|>")
    grammars = Grammars(tokens)
    calls = grammars.of_calls(dialect, {"f": {"type": "object"}}, several=False)
    assert dialect.has_channel
    grammar = grammars.after_thinking(calls, marks._replace(heads=(marks.heads[0], "")), is_open=False)
    assert is_allowed(grammar, tokens, text) is allowed
    if allowed:
        stream = ThinkingStream(marks, Place.BEFORE)
        said = stream.push(text)[1] + stream.finish()[1]
        assert read(list(said), {"f": {}}) == ("", [("f", "{}")], True)


NUMBERED = 'start: "a" number\nnumber: /[0-9]+/\n'
PARTED = [{"lark_grammar": 'start: "a" @number\n'}, {"name": "number", "lark_grammar": "start: /[0-9]+/\n"}]


@pytest.mark.parametrize("source", [NUMBERED, json.dumps({"grammars": PARTED})])
def test_the_own_grammar_of_a_request_can_follow(source: str) -> None:
    lark = Structure(Kind.GRAMMAR, source, "grammar")
    grammar, tokens = grammar_of(Thinking.THINK, lark, is_open=True, has_controls=False)
    assert is_allowed(grammar, tokens, "hm</think>a12")
    assert not is_allowed(grammar, tokens, "hm</think>b")
