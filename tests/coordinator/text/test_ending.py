import pytest

from potluck.coordinator.text.ending import end_of_turn
from potluck.coordinator.text.opening import open_tokenizer
from potluck.coordinator.text.template import ChatTemplate
from potluck.local import demo_model

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}END{% endfor %}"
THOUGHT = "{% for m in messages %}<a>{{ m.reasoning_content }}<|im_end|><b>{{ m.content }}<|im_end|>{% endfor %}"
CALL = (
    "{% for m in messages %}<a>{{ m.content }}{% if m.tool_calls %}<|im_end|>{{ m.tool_calls[0].function.name }}"
    "{% endif %}<|im_end|>{% endfor %}"
)


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (TURN.replace("END", "<|im_end|>\n"), "<|im_end|>"),  # a control token of this vocabulary
        (TURN.replace("END", " \n<|im_end|>"), "<|im_end|>"),
        (TURN.replace("END", "<end_of_turn>\n"), "<end_of_turn>"),  # not one of them
        (TURN.replace("END", "</s>"), "</s>"),
        (TURN.replace("END", "<a b>"), None),
        (TURN.replace("END", "< >"), None),
        (TURN.replace("END", "\n\n"), None),
        (TURN.replace("END", ""), None),
        (TURN.replace("END", "END<|im_end|>"), None),
        (TURN.replace("END", "</think>"), None),
        (THOUGHT, None),  # it also stands between thinking and words
        (CALL, None),  # it also stands between words and a call
        (CALL.replace("<|im_end|>{{ m.tool", "{{ m.tool"), "<|im_end|>"),
        ("{{ messages[0].content }}", None),
        ("{{ raise_exception('No.') }}", None),
        (None, None),
    ],
)
def test_the_end_of_a_turn(source: str | None, end: str | None) -> None:
    source = source and source.replace("</think>", "</think>{# <think> #}")
    assert end_of_turn(ChatTemplate(source), open_tokenizer(demo_model())) == end
