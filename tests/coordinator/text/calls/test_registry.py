"""Excerpts of known templates, each with the marks by which its dialect is told."""

import pytest

from potluck.coordinator.text.calls.registry import CONTROLS, dialect_named, dialect_of

DEEP = "<\uff5c{}\uff5c>".format
TEMPLATES = {
    "hermes": [
        r'{%- if tools %}{{- "<tool_call>\n{\"name\": <name>, \"arguments\": <args-json-object>}\n</tool_call>" }}',
        '{% if tools %}<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}\n</tool_call>',
    ],
    "llama": [
        """{% if tools %}{{ '{"name": function name, "parameters": dictionary}' }}{{ message.tool_calls[0] }}""",
    ],
    "coder": [
        '{{- "<tool_call>\\n<function=" + tool_call.name + ">\\n" }}{{- "<parameter=" + args_name + ">\\n" }}',
        "{% if tools %}<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n"
        '</parameter>\n</function>\n</tool_call>{{ {"arguments": 1} }}',
    ],
    "glm": ["{% if tools %}<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>"],
    "mistral": [
        '{%- if tools %}{{- "[AVAILABLE_TOOLS] [" }}{%- endif %}{{- "[TOOL_CALLS] [" }}{{- \'"name": "\' }}',
    ],
    "mistral-args": ["{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}{{ tools }}"],
    "deepseek": [
        f"{{{{'{DEEP('tool▁calls▁begin')}{DEEP('tool▁call▁begin')}' + tool['type'] + '{DEEP('tool▁sep')}' "
        "+ tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments'] + '\\n' + '```'",
    ],
    "deepseek-bare": [
        f"{{{{'{DEEP('tool▁calls▁begin')}{DEEP('tool▁call▁begin')}' + tool['function']['name'] + '{DEEP('tool▁sep')}'",
    ],
    "harmony": ['{{- "<|start|>assistant<|channel|>commentary to=functions." + tool_call.name + " <|constrain|>json"'],
    "kimi": ["{{ '<|tool_call_begin|>' }}{{ tool_call['id'] }}{{ '<|tool_call_argument_begin|>' }}{{ tools }}"],
    "granite": ["{% if tools %}respond only with <|tool_call|> followed by a JSON list of tools used.{% endif %}"],
    "nemotron": ['{{- \'<TOOLCALL>[{{"name": "tool_name1", "arguments": "tool_args1"}}, \' -}}{{ tools }}'],
    "jamba": ["{{ '<tool_calls>[' }}{{ '{\"name\": \"' + name + '\", \"arguments\": ' }}{{ tools }}"],
    "lfm": ["{%- set content = '<|tool_call_start|>[' + ns_tc.result + ']<|tool_call_end|>' + content -%}{{ tools }}"],
    "pythonic": [
        "{% if tools %}you MUST put it in the format of [func_name1(params_name1=params_value1), func_name2(params)]",
    ],
    "generic": [
        "{% for message in messages %}{{ message.content }}",
        "{% if tools %}{{ tools | tojson }}{% endif %}",
    ],
}


@pytest.mark.parametrize(("name", "template"), [(name, one) for name, some in TEMPLATES.items() for one in some])
def test_a_template_shows_how_its_model_writes_calls(name: str, template: str) -> None:
    assert dialect_of(template) is dialect_named(name)


def test_marks_that_are_control_tokens_somewhere_are_known() -> None:
    assert {"[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", DEEP("tool▁sep"), "<|channel|>"} <= CONTROLS
