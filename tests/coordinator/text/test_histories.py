"""History as any SDK could have dumped it, for templates with the habits of five families: rendered, or refused in a
sentence, and never with what Jinja or Python says.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.text.messages import ROLES
from potluck.coordinator.text.template import ChatTemplate
from potluck.errors import RequestError

TEMPLATES = {
    "alternating": """\
{%- for m in messages %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate.') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim }}
{%- endfor %}""",
    "mistral": """\
{%- for m in messages %}
    {%- if m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {%- for c in m.tool_calls %}[TOOL_CALLS]{{ (c.function | tojson)[:-1] }}
            {%- if c.id is not defined or c.id | length != 9 %}{{ raise_exception('Ids have 9 letters.') }}{% endif %}
        {%- endfor %}
    {%- elif m['role'] in ('assistant', 'tool') %}{{ ' ' + m['content'] | trim + eos_token }}
    {%- else %}{{ raise_exception('Only user, assistant and tool.') }}
    {%- endif %}
{%- endfor %}""",
    "llama": """\
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('One call at once.') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}
    {%- else %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>' + message['content'] | trim }}
    {%- endif %}
{%- endfor %}""",
    "qwen": """\
{%- set ns = namespace(last=0) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not message.content.startswith('<tool_response>') %}
        {%- set ns.last = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set thought = message.reasoning_content if message.reasoning_content is string else '' %}
    {%- if not thought and '</think>' in message.content %}
        {%- set thought = message.content.split('</think>')[0].split('<think>')[-1] %}
    {%- endif %}
    {{- message.role + thought + message.content.lstrip('\n') }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}{{ call.function.arguments | tojson }}
    {%- endfor %}
{%- endfor %}""",
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}",
}
COMPILED = {name: ChatTemplate(source) for name, source in TEMPLATES.items()}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "function", "name", "arguments", "id"]), inner, max_size=3)
    ),
    max_leaves=8,
)
functions = st.fixed_dictionaries(
    {"name": st.just("f") | anything},
    optional={"arguments": st.sampled_from(['{"a": 1}', '{"a": "b"}', "[1]", '"x"', "NaN", ""]) | anything},
)
calls = st.fixed_dictionaries(
    {"function": functions | anything}, optional={"id": st.just("call_1") | anything, "type": anything}
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES)},
    optional={
        "content": st.text(max_size=8) | anything,
        "tool_calls": st.lists(calls, max_size=2) | anything,
        "function_call": functions | anything,
        **dict.fromkeys(["reasoning_content", "refusal", "name", "tool_call_id", "audio"], anything),
    },
)


@pytest.mark.parametrize("name", TEMPLATES)
@given(st.lists(messages, min_size=1, max_size=4))
def test_whatever_was_dumped_is_rendered_or_refused_in_a_sentence(name: str, dumped: list[dict[str, object]]) -> None:
    try:
        prompt = COMPILED[name].render(dumped)
    except RequestError as error:
        said = str(error)
        assert said.endswith(".")
        assert "cannot render" not in said
    else:
        assert isinstance(prompt, str)


@pytest.mark.parametrize("function", [{}, {"name": None}, {"name": 5}, {"arguments": "{}"}])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_without_a_name_is_refused(name: str, function: dict[str, object]) -> None:
    call = {"id": "123456789", "type": "function", "function": function}
    dumped: list[dict[str, object]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    with pytest.raises(RequestError, match=r"^messages\[1\]\.tool_calls\[0\] must name a function\.$"):
        COMPILED[name].render(dumped)
