"""The dialects whose calls are JSON: of Hermes and Qwen, Llama 3, Mistral, DeepSeek, gpt-oss, and of models without."""

from __future__ import annotations

import hashlib
import re

from potluck.coordinator.text.calls.dialect import Dialect
from potluck.coordinator.text.calls.objects import read_list, read_object
from potluck.coordinator.text.calls.scan import Scan, Steps
from potluck.coordinator.text.calls.stream import Calls


class Hermes(Dialect):
    """`<tool_call>{"name": …, "arguments": …}</tool_call>`, of Hermes and Qwen."""

    name = "hermes"
    marks = ("<tool_call>",)
    controls = ("<tool_call>", "</tool_call>")
    before, middle, after, joins = '<tool_call>\n{"name": ', ', "arguments": ', "}\n</tool_call>", "\n"

    @classmethod
    def is_of(cls, template: str) -> bool:
        return "<tool_call>" in template and re.search(r'"arguments\\*"', template) is not None

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        if (yield from scan.peek()) == "[":
            has_begun = yield from read_list(scan, calls)
        else:
            has_begun = yield from read_object(scan, calls)
        if has_begun:
            yield from closing(scan, "</tool_call>")
        return has_begun


class Llama(Dialect):
    """An answer that begins with `{"name": …, "parameters": …}`, of Llama 3. Some models join several with `;`."""

    name = "llama"
    marks = ("<|python_tag|>",)
    openings = "{"
    controls = marks
    before, middle, after = '{"name": ', ', "parameters": ', "}"

    @classmethod
    def is_of(cls, template: str) -> bool:
        return re.search(r'"parameters\\*"', template) is not None and "tool_calls" in template

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        return (yield from read_object(scan, calls))


class Generic(Dialect):
    """`{"name": …, "arguments": …}`, or a list of such objects: for models of which no other dialect is known."""

    name = "generic"
    openings = "["
    before, middle, after, joins = '{"name": ', ', "arguments": ', "}", "\n"

    @classmethod
    def is_of(cls, template: str) -> bool:
        return True

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        return (yield from read_list(scan, calls))


class Fenced(Dialect):
    """A fenced block that is nothing but calls. Models of many kinds write it, and none is told to."""

    name = "fenced"
    marks = ("```",)

    @classmethod
    def is_of(cls, template: str) -> bool:
        return False

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.one_of(("json", "JSON", "tool_call", "tool_calls"))
        yield from scan.spaces()
        draft = Calls(calls.tools)
        if (yield from scan.peek()) == "[":
            yield from read_list(scan, draft)
        else:
            while (yield from read_object(scan, draft)):
                yield from scan.spaces()
        yield from scan.spaces()
        is_closed = yield from scan.literal("```")
        if not draft.are_whole or not (is_closed or (yield from scan.peek()) == ""):
            return False
        calls.adopt(draft)
        return True


class Mistral(Dialect):
    """`[TOOL_CALLS][{"name": …, "arguments": …}]`. Ids of calls have nine letters and digits, or templates raise."""

    name = "mistral"
    marks = ("[TOOL_CALLS]",)
    controls = ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
    opens, closes = "[TOOL_CALLS][", "]"
    before, middle, after, joins = '{"name": ', ', "arguments": ', "}", ", "

    @classmethod
    def is_of(cls, template: str) -> bool:
        return "[TOOL_CALLS]" in template

    def identity(self, digits: str) -> str:
        return digits[-9:]

    def fitted(self, identity: str) -> str:
        if re.fullmatch("[A-Za-z0-9]{9}", identity):
            return identity
        return hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:9]

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        match (yield from scan.peek()):
            case "[":
                return (yield from read_list(scan, calls))
            case "{":
                return (yield from read_object(scan, calls))
        name = yield from tool_before(scan, calls, "[ARGS]", "[CALL_ID]", ahead=("{",))
        if name is None:
            return False
        if scan.text.endswith("[CALL_ID]", 0, scan.at):
            while (yield from scan.peek()).isalnum():
                scan.at += 1
            yield from scan.literal("[ARGS]")
        return (yield from read_arguments(scan, calls, name))


class MistralArgs(Mistral):
    """`[TOOL_CALLS]name[ARGS]{…}`, of Mistral's newer models."""

    name = "mistral-args"
    opens, closes = "", ""
    before, middle, after, joins = "[TOOL_CALLS]", "[ARGS]", "", ""
    quotes_name = False

    @classmethod
    def is_of(cls, template: str) -> bool:
        return "[TOOL_CALLS]" in template and "[ARGS]" in template


_CALLS, _CALL, _SEPARATOR, _CALL_ENDS, _CALLS_END = (
    f"<\uff5ctool▁{word}\uff5c>" for word in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")
)


class DeepSeek(Dialect):
    """The word "function" and the name between marks, and the arguments in a fenced block, of DeepSeek V3 and R1."""

    name = "deepseek"
    marks = (_CALLS, _CALL)
    controls = (_CALLS, _CALL, _SEPARATOR, _CALL_ENDS, _CALLS_END)
    opens, closes = _CALLS, _CALLS_END
    before, middle, after, joins = f"{_CALL}function{_SEPARATOR}", "\n```json\n", f"\n```{_CALL_ENDS}", "\n"
    quotes_name = False

    @classmethod
    def is_of(cls, template: str) -> bool:
        return _CALLS in template

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        yield from scan.literal(_CALL)
        yield from scan.literal(f"function{_SEPARATOR}")
        name = yield from tool_before(scan, calls, _SEPARATOR, "\n")
        if name is None:
            return False
        yield from scan.spaces()
        yield from scan.literal("```json")
        has_begun = yield from read_arguments(scan, calls, name)
        if has_begun:
            for end in ("```", _CALL_ENDS, _CALLS_END):
                yield from closing(scan, end)
        return has_begun


class DeepSeekBare(DeepSeek):
    """The name and the arguments between marks, of DeepSeek V3.1."""

    name = "deepseek-bare"
    before, middle, after, joins = _CALL, _SEPARATOR, _CALL_ENDS, ""

    @classmethod
    def is_of(cls, template: str) -> bool:
        return _CALLS in template and "```json" not in template


class Harmony(Dialect):
    """`<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}`, of gpt-oss."""

    name = "harmony"
    _channel = "<|channel|>commentary to=functions."
    marks = (
        f"<|start|>assistant{_channel}",
        _channel,
        "<|start|>assistant to=functions.",
        "to=functions.",
    )
    controls = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>")
    before, middle = _channel, " <|constrain|>json<|message|>"
    quotes_name = False
    has_channel = True

    @classmethod
    def is_of(cls, template: str) -> bool:
        return "<|channel|>" in template and "to=functions." in template

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        name = yield from tool_before(scan, calls, " ", "<|channel|>", "<|constrain|>", "<|message|>")
        if name is None:
            return False
        while (yield from scan.one_of((" ", "<|channel|>", "commentary", "<|constrain|>", "json", "<|message|>"))):
            pass
        has_begun = yield from read_arguments(scan, calls, name)
        if has_begun:
            yield from closing(scan, "<|call|>")
        return has_begun


def closing(scan: Scan, text: str) -> Steps[None]:
    """Pass what closes a call, if the model wrote it."""
    yield from scan.spaces()
    yield from scan.literal(text)


def tool_before(scan: Scan, calls: Calls, *ends: str, ahead: tuple[str, ...] = ()) -> Steps[str | None]:
    """Pass the name of a tool and what ends it; None for another name. ahead: ends that are left to be read."""
    names = {name + end: (name, end) for name in calls.tools for end in (*ends, *ahead)}
    found = yield from scan.one_of(names)
    if found is None:
        return None
    name, end = names[found]
    scan.at -= len(end) if end in ahead else 0
    return name


def read_arguments(scan: Scan, calls: Calls, name: str) -> Steps[bool]:
    """Read arguments that are a JSON object of a tool whose name is known."""
    yield from scan.spaces()
    if (yield from scan.peek()) != "{":
        return False
    calls.begin(name)
    yield from scan.nested(calls.add)
    calls.end()
    return True
