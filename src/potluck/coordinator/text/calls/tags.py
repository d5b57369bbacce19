"""The dialects that write each argument between tags: of Qwen3-Coder, and of GLM."""

from __future__ import annotations

import json
from typing import Any

from potluck.coordinator.text.calls.dialect import Dialect, json_rule, literal
from potluck.coordinator.text.calls.json_dialects import closing, tool_before
from potluck.coordinator.text.calls.pythonic import can_be_listed, cannot_be_demanded, python_value
from potluck.coordinator.text.calls.scan import Scan, Steps, decoded, encoded
from potluck.coordinator.text.calls.schemas import choices, definitions, kind_of, kinds, properties, required
from potluck.coordinator.text.calls.stream import Calls, Schema

_CALL_ENDS = "</tool_call>"


class Coder(Dialect):
    """`<tool_call><function=name><parameter=x>…</parameter></function></tool_call>`, of Qwen3-Coder.

    Arguments are text where the tool's schema says so, and else JSON. A closing tag ends a value only if another tag
    follows it. Each argument is told as a whole.
    """

    name = "coder"
    marks: tuple[str, ...] = ("<tool_call>", "<function=")
    controls = ("<tool_call>", _CALL_ENDS)
    before, middle, after, joins = "<tool_call>\n<function=", ">\n", f"</function>\n{_CALL_ENDS}", "\n"
    quotes_name = False

    head, tail = "<function=", "</function>"
    key, key_ends = "<parameter=", ">"
    value, value_ends = "\n", "\n</parameter>"
    """What is written around a value. Line breaks of it may be missing."""

    @classmethod
    def is_of(cls, template: str) -> bool:
        return "<tool_call>" in template and cls.head in template

    def example(self) -> str:
        argument = f"{self.key}KEY{self.key_ends}{self.value}VALUE{self.value_ends}"
        return f"{self.before}NAME{self.middle}{argument}\n…\n{self.after}"

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        if not scan.text.endswith(self.head, 0, scan.at):
            yield from scan.spaces()
            if not (yield from scan.literal(self.head)):
                return False
        return (yield from self._read_call(scan, calls, (yield from tool_before(scan, calls, ">"))))

    def _read_call(self, scan: Scan, calls: Calls, name: str | None) -> Steps[bool]:
        if name is None or not (yield from self._is_followed(scan)):
            return False
        calls.begin(name)
        calls.add("{")
        if (yield from self._read_arguments(scan, calls, calls.tools[name])):
            calls.add("}")
            calls.end()
            for end in dict.fromkeys((self.tail, _CALL_ENDS)):
                yield from closing(scan, end)
        return True

    def _is_followed(self, scan: Scan) -> Steps[bool]:
        """Whether an argument follows, or the end of the call or of the answer. The parser is then before it."""
        yield from scan.spaces()
        start = scan.at
        follows = yield from scan.one_of((self.key, self.tail, _CALL_ENDS))
        has_ended = (yield from scan.peek()) == ""
        scan.at = start
        return follows is not None or has_ended

    def _read_arguments(self, scan: Scan, calls: Calls, schema: Schema) -> Steps[bool]:
        """Returns whether they are all there, and the answer is not broken off in the middle of one."""
        known, comma = properties(schema), ""
        while True:
            yield from scan.spaces()
            if not (yield from scan.literal(self.key)):
                return True
            start, end = scan.at, (yield from scan.find(self.key_ends))
            if end is None:
                return False
            key, scan.at = scan.text[start:end], end + len(self.key_ends)
            text = yield from self._read_value(scan)
            if text is None:
                return False
            calls.add(f"{comma}{encoded(key)}: {_typed(text, kinds(known.get(key), schema))}")
            comma = ", "

    def _read_value(self, scan: Scan) -> Steps[str | None]:
        """The text of a value; None if it is broken off."""
        yield from scan.literal("\n")
        yield from scan.literal(self.value.strip())
        start, end_tag = scan.at, self.value_ends.strip()
        while (end := (yield from scan.find(end_tag))) is not None:
            scan.at = end + len(end_tag)
            if (yield from self._is_followed(scan)):
                return scan.text[start:end].removesuffix(self.value_ends.removesuffix(end_tag))
        return None

    def arguments(self, rule: str, name: str, schema: Schema) -> list[str]:
        known = properties(schema)
        if not known and not can_be_listed(schema):
            raise cannot_be_demanded(name)
        parts, rules = ['""'], list[str]()
        for number, (key, about) in enumerate(known.items()):
            this = f"{rule}p{number}"
            parts.append(this if key in required(schema) else f"{this}?")
            rules.append(f'{this}: {literal(f"{self.key}{key}{self.key_ends}{self.value}")} {this}v "\\n"')
            rules.append(f"{this}v{self._value_rule(about, schema)}")
        return [f"{rule}: {' '.join(parts)}", *rules]

    def _value_rule(self, about: Any, schema: Schema) -> str:
        """What follows the name of the rule of a value and its closing tag."""
        own = about if isinstance(about, dict) else {}
        if "string" not in kinds(about, schema):
            return f": {json_rule({**definitions(schema), **own})} {literal(self.value_ends)}"
        if (texts := choices(about, schema)) is not None:
            return f": ({' | '.join(map(literal, texts))}) {literal(self.value_ends)}"
        least, most = own.get("minLength"), own.get("maxLength")
        bounds = f"{least if isinstance(least, int) else 0},{most if isinstance(most, int) else ''}"
        return f"[suffix={literal(self.value_ends.strip())}]: /(?s:.{{{bounds}}})/"


class Glm(Coder):
    """`<tool_call>name<arg_key>x</arg_key><arg_value>…</arg_value></tool_call>`, of GLM 4.5 and later."""

    name = "glm"
    marks = ("<tool_call>",)
    before, middle, after = "<tool_call>", "\n", _CALL_ENDS
    head, tail = "<arg_key>", _CALL_ENDS
    key, key_ends = "<arg_key>", "</arg_key>"
    value, value_ends = "\n<arg_value>", "</arg_value>"

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        return (yield from self._read_call(scan, calls, (yield from tool_before(scan, calls, "\n", ahead=("<",)))))


def _typed(text: str, allowed: frozenset[str]) -> str:
    """The JSON of an argument's text. allowed: its types, if they are known."""
    said = text.strip()
    if allowed != {"string"}:
        value = decoded(said)
        if (value is not None or said == "null") and (
            "string" not in allowed or (kind_of(value) in allowed and not isinstance(value, str))
        ):
            return said
        if "string" not in allowed and (found := _python(said)) is not None:
            return found
    return encoded(text) or json.dumps(text)


def _python(text: str) -> str | None:
    """The JSON of a Python literal such as `True`, which models write too."""
    try:
        return encoded(python_value(text))
    except ValueError:
        return None
