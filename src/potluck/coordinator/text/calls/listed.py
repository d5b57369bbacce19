"""The dialects that write a JSON list between marks: of Granite and Phi, Nemotron, Jamba and LFM2; and that of Kimi."""

from __future__ import annotations

from potluck.coordinator.text.calls.dialect import Dialect
from potluck.coordinator.text.calls.json_dialects import closing, read_arguments, tool_before
from potluck.coordinator.text.calls.objects import read_list, read_object
from potluck.coordinator.text.calls.scan import Scan, Steps
from potluck.coordinator.text.calls.stream import Calls


class Listed(Dialect):
    """A list of `{"name": …, "arguments": …}` after a mark. ends: the mark after the list."""

    before, middle, after, joins = '{"name": ', ', "arguments": ', "}", ", "
    ends: str

    @classmethod
    def is_of(cls, template: str) -> bool:
        return cls.marks[0] in template

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        read = read_list if (yield from scan.peek()) == "[" else read_object
        has_begun = yield from read(scan, calls)
        if has_begun:
            yield from closing(scan, self.ends)
        return has_begun


class Granite(Listed):
    """`<|tool_call|>[{"name": …, "arguments": …}]`, of Granite and Phi-4."""

    name = "granite"
    marks = ("<|tool_call|>",)
    ends = "<|/tool_call|>"
    controls = (*marks, ends)
    opens, closes = "<|tool_call|>[", "]"


class Nemotron(Listed):
    """`<TOOLCALL>[{"name": …, "arguments": …}]</TOOLCALL>`."""

    name = "nemotron"
    marks = ("<TOOLCALL>",)
    ends = "</TOOLCALL>"
    opens, closes = "<TOOLCALL>[", "]</TOOLCALL>"


class Jamba(Listed):
    """`<tool_calls>[{"name": …, "arguments": …}]</tool_calls>`."""

    name = "jamba"
    marks = ("<tool_calls>",)
    ends = "</tool_calls>"
    controls = (*marks, ends)
    opens, closes = "<tool_calls>[", "]</tool_calls>"


class Lfm(Listed):
    """`<|tool_call_start|>[{"name": …, "arguments": …}]<|tool_call_end|>`. LFM2 writes Python between the marks too."""

    name = "lfm"
    marks = ("<|tool_call_start|>",)
    ends = "<|tool_call_end|>"
    controls = (*marks, ends)
    opens, closes = "<|tool_call_start|>[", "]<|tool_call_end|>"


class Kimi(Dialect):
    """`<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`, within a section."""

    name = "kimi"
    marks = ("<|tool_calls_section_begin|>", "<|tool_call_begin|>")
    controls = (*marks, "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>")
    opens, closes = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
    before, middle, after = "<|tool_call_begin|>functions.", ":0<|tool_call_argument_begin|>", "<|tool_call_end|>"
    quotes_name = False

    @classmethod
    def is_of(cls, template: str) -> bool:
        return "<|tool_call_begin|>" in template

    def read(self, scan: Scan, calls: Calls) -> Steps[bool]:
        yield from scan.spaces()
        yield from scan.literal("<|tool_call_begin|>")
        yield from scan.literal("functions.")
        name = yield from tool_before(scan, calls, ":", ahead=("<|tool_call_argument_begin|>",))
        while name is not None and (yield from scan.peek()).isdigit():
            scan.at += 1
        if name is None or not (yield from scan.literal("<|tool_call_argument_begin|>")):
            return False
        has_begun = yield from read_arguments(scan, calls, name)
        if has_begun:
            for end in ("<|tool_call_end|>", "<|tool_calls_section_end|>"):
                yield from closing(scan, end)
        return has_begun
