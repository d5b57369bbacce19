"""A model without weights whose answers go through the alphabet, round and round. Its tokens are bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from bench import neox

FIRST_TOKEN, TOKENS = ord("a"), 26


def write_model(path: Path, layers: int, hidden: int) -> None:
    """Write what a coordinator reads of a model: metadata, a tokenizer, and tensors, which no engine could use."""
    writer = GGUFWriter(path, "gptneox")
    neox.add_metadata(writer, layers=layers, hidden=hidden, heads=hidden // 64, feed_forward=hidden)
    vocabulary = neox.add_tokenizer(writer)
    writer.add_tensor("token_embd.weight", np.zeros((vocabulary, hidden), np.float32))
    writer.add_tensor("output.weight", np.zeros((vocabulary, hidden), np.float32))
    for layer in range(layers):
        writer.add_tensor(f"blk.{layer}.attn_qkv.weight", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def next_token(token: int) -> int:
    return FIRST_TOKEN + (token - FIRST_TOKEN + 1) % TOKENS


def expected_text(prompt: Sequence[int], tokens: int) -> str:
    letters, token = [], prompt[-1]
    for _ in range(tokens):
        token = next_token(token)
        letters.append(chr(token))
    return "".join(letters)
