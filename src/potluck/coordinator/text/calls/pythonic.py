"""The dialect of calls in Python, of Llama 4 and of LFM2: `[f(a=1, b="x"), g()]`."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from potluck.coordinator.text.calls.dialect import Dialect, json_rule, literal
from potluck.coordinator.text.calls.json_dialects import tool_before
from potluck.coordinator.text.calls.scan import Scan, Steps, encoded
from potluck.coordinator.text.calls.schemas import definitions, properties, required
from potluck.coordinator.text.calls.stream import Calls, Schema
from potluck.errors import RequestError

_CONSTANTS = {"true": True, "false": False, "null": None}
"""What models write where they think of JSON, and grammars demand."""

_LONGEST = 1 << 16
"""The most characters of a call."""

_LONGEST_BARE = 1 << 13
"""The most characters of a call outside its strings. Python takes about 0.01 s to read as many, and no time to read a
long string, such as a file that is to be written."""

_STRING = re.compile(r"""(\w?)(?:'(?:[^'\\]|\\.)*+'?|"(?:[^"\\]|\\.)*+"?)""", re.DOTALL)
"""A string, even one that does not end, and a letter before it: those with one may contain code."""


class Pythonic(Dialect):
    """`[f(a=1, b="x"), g()]`. Each call is told as a whole, and arguments may be literals only."""

    name = "pythonic"
    marks = ("<|python_start|>", "<|tool_call_start|>")
    openings = "["
    controls = ("<|python_start|>", "<|python_end|>", "<|tool_call_start|>", "<|tool_call_end|>")
    opens, closes = "[", "]"
    after, joins = ")", ", "
    middle = "("
    quotes_name = False

    @classmethod
    def is_of(cls, template: str) -> bool:
        return re.search(r"\[\w+\(\w+=", template) is not None

    def example(self) -> str:
        return "[NAME(KEY=VALUE, …)]"

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        start = calls.found
        yield from scan.spaces()
        if not (yield from scan.literal("[")):
            return False
        while (yield from self._read_call(scan, calls)):
            yield from scan.spaces()
            if not (yield from scan.literal(",")):
                yield from scan.literal("]")
                yield from scan.spaces()
                yield from scan.one_of(("<|python_end|>", "<|tool_call_end|>"))
                break
        return calls.found > start

    def _read_call(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        name = yield from tool_before(scan, calls, ahead=("(",))
        if name is None:
            return False
        parts: list[str] = []
        yield from scan.nested(parts.append, quotes="'\"")
        arguments = _arguments("".join(parts), list(properties(calls.tools[name])))
        if arguments is None:
            return False
        calls.whole(name, arguments)
        return True

    def arguments(self, rule: str, name: str, schema: Schema) -> list[str]:
        """Arguments in the order of the schema, with commas between those that are there."""
        known = properties(schema)
        if not all(key.isidentifier() for key in known) or not (known or can_be_listed(schema)):
            raise cannot_be_demanded(name)
        rules, last = [f"{rule}: {rule}f0"], len(known)
        for number, (key, about) in enumerate(known.items()):
            this, first, more = f"{rule}p{number}", f"{rule}f{number + 1}", f"{rule}r{number + 1}"
            is_required = key in required(schema)
            rules += [
                f"{this}: {literal(f'{key}=')} {json_rule({**definitions(schema), **_schema(about)})}",
                f"{rule}f{number}: {this} {more}" + ("" if is_required else f" | {first}"),
                f'{rule}r{number}: (", " {this}){"" if is_required else "?"} {more}',
            ]
        return [*rules, f'{rule}f{last}: ""', f'{rule}r{last}: ""']


def can_be_listed(schema: Mapping[str, Any]) -> bool:
    """Whether an object of this schema, which names no properties, has none that are named elsewhere."""
    return not any(word in schema for word in ("$ref", "allOf", "anyOf", "oneOf", "patternProperties"))


def cannot_be_demanded(name: str) -> RequestError:
    message = f"The parameters of {name} cannot be demanded in this model's form of calls: list simple properties."
    return RequestError(message, param="tools")


def _schema(about: Any) -> dict[str, Any]:
    return about if isinstance(about, dict) else {}


def python_value(source: str) -> Any:
    """The value of a Python literal. Raises ValueError when the source is not one."""
    return _value(_parsed(source))


def _arguments(source: str, names: Sequence[str]) -> str | None:
    """The JSON object of what stands in the brackets of a call; None if these are not arguments that JSON can say.

    names: those of the parameters, for arguments without one.
    """
    try:
        call = _parsed(f"f{source}")
        if not isinstance(call, ast.Call) or len(call.args) > len(names):
            return None
        values = {name: _value(node) for name, node in zip(names, call.args, strict=False)}
        for keyword in call.keywords:
            if keyword.arg is None:
                return None
            values[keyword.arg] = _value(keyword.value)
    except ValueError:
        return None
    return encoded(values)


def _parsed(source: str) -> ast.expr:
    """The expression of a source. Raises ValueError when it is not one."""
    if len(source) > _LONGEST or len(_STRING.sub(_without_text, source)) > _LONGEST_BARE:
        raise ValueError("too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's escapes are not ours to warn of
            return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not Python") from error


def _without_text(string: re.Match[str]) -> str:
    return string[0] if string[1] else '""'


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(_Constants().visit(node))
    except (TypeError, RecursionError, MemoryError) as error:
        raise ValueError("not a literal") from error


class _Constants(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_CONSTANTS[node.id]) if node.id in _CONSTANTS else node
