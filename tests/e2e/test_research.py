"""What OpenAI's API cannot say, against real nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load

from kit.unsplit import Unsplit
from potluck.engine.base import Segment
from potluck.local import HANG_S, LocalSwarm


def post(swarm: LocalSwarm, path: str, body: dict[str, Any], status: int = 200) -> httpx.Response:
    reply = httpx.post(f"{swarm.url}{path}", json=body, timeout=HANG_S)
    assert reply.status_code == status, reply.text
    return reply


@pytest.mark.parametrize("text", ["hello the thing", "<|im_start|>user", "🥘", ""])
def test_a_text_is_its_tokens_and_back(tiny_swarm: LocalSwarm, tiny_unsplit: Unsplit, text: str) -> None:
    tokens = post(tiny_swarm, "/tokenize", {"content": text}).json()["tokens"]
    assert tokens == tiny_unsplit.tokenizer.encode(text, special=True, bos=False)
    assert post(tiny_swarm, "/detokenize", {"tokens": tokens}).json() == {"content": text, "prompt": text}


def test_pieces_are_text_or_the_bytes_of_half_characters(tiny_swarm: LocalSwarm) -> None:
    whole = post(tiny_swarm, "/tokenize", {"content": "hello", "with_pieces": True}).json()["tokens"]
    assert [entry["piece"] for entry in whole] == ["hello"]
    cut = post(tiny_swarm, "/tokenize", {"content": "🥘", "with_pieces": True}).json()["tokens"]
    assert bytes(byte for entry in cut for byte in entry["piece"]).decode() == "🥘"


def test_a_sequence_begins_as_the_model_was_trained(smol: LocalSwarm, unsplit: Unsplit) -> None:
    body = {"content": "Once", "add_special": True}
    assert post(smol, "/tokenize", body).json()["tokens"] == unsplit.encode("Once")


def test_a_text_as_vllm_asks_for_it(smol: LocalSwarm, unsplit: Unsplit) -> None:
    tokens = post(smol, "/tokenize", {"prompt": "Once"}).json()["tokens"]
    assert tokens == unsplit.encode("Once")
    bare = post(smol, "/tokenize", {"prompt": "<|im_end|>Once", "add_special_tokens": False}).json()["tokens"]
    assert bare == unsplit.tokenizer.encode("<|im_end|>Once", special=True, bos=False)


def test_how_sequences_begin_and_end(smol: LocalSwarm, unsplit: Unsplit) -> None:
    told = httpx.get(f"{smol.url}/tokenizer_info", timeout=HANG_S).json()
    assert (told["bos_token"], told["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert told["chat_template"] == unsplit.tokenizer.chat_template


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": "a", "prompt": "a"}, "content"),
        ("/detokenize", {"tokens": [1 << 20]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
    ],
)
def test_what_is_no_text_and_no_token_is_refused(
    tiny_swarm: LocalSwarm, path: str, body: dict[str, Any], param: str
) -> None:
    assert post(tiny_swarm, path, body, 400).json()["error"]["param"] == param


@pytest.mark.parametrize("layer", [0, 1, 2, 4])
@pytest.mark.parametrize("length", [1, 70, 300])
def test_hidden_rows_are_those_of_the_unsplit_model_bit_for_bit(
    tiny_swarm: LocalSwarm, tiny: Path, tiny_unsplit: Unsplit, layer: int, length: int
) -> None:
    tokens = np.random.default_rng(length).integers(0, 250, length, np.int32)
    body = {"model": tiny.stem, "tokens": tokens.tolist(), "layer": layer}
    answer = load(post(tiny_swarm, "/v1/hidden_states", body).content)
    tiny_unsplit._engine.close(1)
    [rows] = tiny_unsplit._engine.forward([Segment(1, 0, tokens, layer, 0)])
    assert answer["hidden_states"].dtype == np.float32
    assert (answer["hidden_states"] == rows).all()
    assert (answer["tokens"] == tokens).all()


def test_hidden_rows_of_a_text(smol: LocalSwarm, name: str, unsplit: Unsplit) -> None:
    body = {"model": name, "prompt": "Once upon a time", "layer": 14, "priority": "batch"}
    answer = load(post(smol, "/v1/hidden_states", body).content)
    assert answer["tokens"].tolist() == unsplit.encode("Once upon a time")
    assert answer["hidden_states"].shape == (4, 576)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"layer": 5}, "layer"),
        ({"layer": -1}, "layer"),
        ({"tokens": []}, "tokens"),
        ({"tokens": [1 << 20]}, "tokens"),
        ({"tokens": [0] * 4097}, "tokens"),
        ({"tokens": None}, "prompt"),
        ({"prompt": "a"}, "prompt"),
    ],
)
def test_rows_that_cannot_be_had_are_refused(
    tiny_swarm: LocalSwarm, tiny: Path, changes: dict[str, Any], param: str
) -> None:
    body = {"model": tiny.stem, "layer": 1, "tokens": [1], **changes}
    assert post(tiny_swarm, "/v1/hidden_states", body, 400).json()["error"]["param"] == param
