import pytest

from potluck.coordinator.callform import CallForm

QWEN = r'{%- if tools %}{{- "<tool_call>\n{\"name\": <name>, \"arguments\": <args-json-object>}\n</tool_call>" }}'
HERMES = '{% if tools %}<tool_call>\n{"arguments": <args-dict>, "name": <function-name>}\n</tool_call>'
LLAMA = """{% if tools %}{{ '{"name": function name, "parameters": dictionary}' }}{{ message.tool_calls[0] }}"""
CODER = "{% if tools %}<tool_call>\n<function=name>\n<parameter=city>Rom</parameter>{{ tool_call.arguments }}"


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (QWEN, CallForm.HERMES),
        (HERMES, CallForm.HERMES),
        (LLAMA, CallForm.LLAMA),
        (CODER, None),
        ("{% if tools %}[AVAILABLE_TOOLS]{{ tools }}", None),
        ("{% for message in messages %}{{ message.content }}", None),
    ],
)
def test_a_template_shows_how_its_model_writes_calls(template: str, form: CallForm | None) -> None:
    assert CallForm.of(template) is form
