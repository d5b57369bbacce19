"""Hostile model files on the command line: each ends in one sentence, whatever it claims."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kit.processes import LOCAL, complaint
from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf, write_tiny_tokenizer

DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000


def gguf(path: Path, old: bytes, new: bytes) -> Path:
    """A model in which some bytes are others."""
    content = write_tiny_gguf(path, "llama", tokenizer="bpe").read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def number(key: str, value: int) -> bytes:
    """A key of GGUF metadata with its number."""
    return key.encode() + struct.pack("<II", 4, value)


def heads(folder: Path) -> Path:
    return gguf(folder / "m.gguf", number("llama.attention.head_count", 2), number("llama.attention.head_count", 0))


def layers(folder: Path) -> Path:
    return gguf(folder / "m.gguf", number("llama.block_count", 6), number("llama.block_count", 1 << 31))


def tokens(folder: Path) -> Path:
    many, more = (b"tokenizer.ggml.tokens" + struct.pack("<IIQ", 9, 8, count) for count in (270, 1 << 40))
    return gguf(folder / "m.gguf", many, more)


def config(folder: Path) -> Path:
    model = write_tiny_hf(folder / "m")
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | {"num_attention_heads": 0}))
    return model


def deep_config(folder: Path) -> Path:
    model = write_tiny_hf(folder / "m")
    (model / "config.json").write_bytes(DEEP)
    return model


def deep_weights(folder: Path) -> Path:
    model = write_tiny_hf(folder / "m", shards=1)
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(DEEP)) + DEEP)
    return model


def beside_it(file: str, content: bytes) -> Callable[[Path], Path]:
    """A sound model, but for one file of its tokenizer."""

    def write(folder: Path) -> Path:
        model = write_tiny_hf(folder / "m", vocabulary=600)
        write_tiny_tokenizer(model)
        (model / file).write_bytes(content)
        return model

    return write


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (heads, "gives 0 as its llama.attention.head_count, which is not a number from 1 to 1024"),
        (layers, "llama.block_count, which is not a number from 1 to 1024"),
        (tokens, "it claims 10995116277"),
        (config, "config.json is broken (Expected `int` >= 1 - at `$.num_attention_heads`)"),
        (deep_config, "config.json is not valid JSON; fetch it again"),
        (deep_weights, "model.safetensors is not a safetensors file, or a broken one; fetch it again"),
        (beside_it("tokenizer.json", DEEP), "tokenizer.json is not valid JSON; fetch it again"),
        (beside_it("tokenizer_config.json", b'{"bos_token": {}}'), "tokenizer_config.json is broken (Object missing"),
        (beside_it("chat_template.jinja", b"\xff"), "chat_template.jinja is not a text in UTF-8; fetch it again"),
    ],
)
def test_serve_refuses_it_with_a_sentence(tmp_path, write, sentence):
    assert sentence in complaint("serve", write(tmp_path), "--port", 0, *LOCAL)
