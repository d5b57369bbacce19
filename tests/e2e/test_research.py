"""What OpenAI's API cannot say, against real nodes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from e2e.helpers import Unsplit
from potluck.local import LocalSwarm


def post(swarm: LocalSwarm, path: str, body: dict[str, Any], status: int = 200) -> httpx.Response:
    reply = httpx.post(f"{swarm.url}{path}", json=body, timeout=60)
    assert reply.status_code == status, reply.text
    return reply


@pytest.mark.parametrize("text", ["hello the thing", "<|im_start|>user", "🥘", ""])
def test_a_text_is_its_tokens_and_back(tiny_swarm: LocalSwarm, tiny_unsplit: Unsplit, text: str) -> None:
    tokens = post(tiny_swarm, "/tokenize", {"content": text}).json()["tokens"]
    assert tokens == tiny_unsplit.tokenizer.encode(text, special=True, bos=False)
    assert post(tiny_swarm, "/detokenize", {"tokens": tokens}).json() == {"content": text}


def test_pieces_are_text_or_the_bytes_of_half_characters(tiny_swarm: LocalSwarm) -> None:
    whole = post(tiny_swarm, "/tokenize", {"content": "hello", "with_pieces": True}).json()["tokens"]
    assert [entry["piece"] for entry in whole] == ["hello"]
    cut = post(tiny_swarm, "/tokenize", {"content": "🥘", "with_pieces": True}).json()["tokens"]
    assert bytes(byte for entry in cut for byte in entry["piece"]).decode() == "🥘"


def test_a_sequence_begins_as_the_model_was_trained(smol: LocalSwarm, unsplit: Unsplit) -> None:
    body = {"content": "Once", "add_special": True}
    assert post(smol, "/tokenize", body).json()["tokens"] == unsplit.encode("Once")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/detokenize", {"tokens": [1 << 20]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
def test_what_is_no_text_and_no_token_is_refused(
    tiny_swarm: LocalSwarm, path: str, body: dict[str, Any], param: str
) -> None:
    assert post(tiny_swarm, path, body, 400).json()["error"]["param"] == param
