"""The official OpenAI client predicts an answer of SmolLM2 on three nodes, which changes no byte of it."""

from __future__ import annotations

from typing import Any

import pytest

QUESTION = [{"role": "user", "content": "Write a short poem about bread and soup."}]
STORY = "Once upon a time"
TOKENS = 24
GREEDY: dict[str, Any] = {"temperature": 0, "logprobs": True, "top_logprobs": 2}
SEEDED: dict[str, Any] = {"temperature": 1, "seed": 7, "frequency_penalty": 0.5, "n": 2}
PREFILLED: dict[str, Any] = {"temperature": 0, "messages": [*QUESTION, {"role": "assistant", "content": "Bread and"}]}
PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
JSON: dict[str, Any] = {
    "temperature": 0,
    "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}},
}


def predictions(text: str) -> list[str]:
    """A right one, those that are right for a while, and nonsense."""
    half = len(text) // 2
    return [text, text[:half] + " quite otherwise " + text[half:], text[half:] + text, "<|im_end|> 🥘 " * 40]


def predicted(text: str) -> dict[str, Any]:
    return {"type": "content", "content": text}


@pytest.mark.parametrize("fields", [GREEDY, SEEDED, PREFILLED, JSON], ids=["greedy", "seeded", "prefilled", "json"])
def test_a_prediction_changes_no_byte_of_a_chat(client, name, fields) -> None:
    asked = {"model": name, "messages": QUESTION, "max_tokens": TOKENS, **fields}

    def texts(**more: Any) -> list[str]:
        """The text of each choice of a streamed answer."""
        said = [""] * fields.get("n", 1)
        for chunk in client.chat.completions.create(**asked, **more, stream=True):
            for choice in chunk.choices:
                said[choice.index] += choice.delta.content or ""
        return said

    plain = client.chat.completions.create(**asked)
    answers = [choice.message.content for choice in plain.choices]
    assert all(answers)
    assert texts() == answers
    for text in predictions(answers[-1]):
        answer = client.chat.completions.create(**asked, prediction=predicted(text))
        assert answer.choices == plain.choices
        assert texts(prediction=predicted(text)) == answers
        assert answer.usage.prompt_tokens == plain.usage.prompt_tokens
        assert answer.usage.completion_tokens == plain.usage.completion_tokens
        counted = answer.usage.completion_tokens_details
        assert counted.accepted_prediction_tokens <= answer.usage.completion_tokens


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1, "seed": 7, "logprobs": 1}])
def test_a_prediction_changes_no_byte_of_a_completion(client, name, fields) -> None:
    asked = {"model": name, "prompt": [STORY, "Bread"], "max_tokens": TOKENS, **fields}
    plain = client.completions.create(**asked)
    for text in predictions(plain.choices[0].text):
        answer = client.completions.create(**asked, extra_body={"prediction": predicted(text)})
        assert answer.choices == plain.choices
        assert answer.usage.total_tokens == plain.usage.total_tokens
