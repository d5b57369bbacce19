"""Tiny random models, written to disk in milliseconds: small stand-ins with everything that the real ones have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize

Architecture = Literal["gptneox", "llama"]
Tokenizer = Literal["no_vocab", "bpe"]

EXACT = GGMLQuantizationType.Q8_0
"""Of float matrices llama.cpp computes one row in another order than many, so that batches change bits."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "Ġ the", "i n", "in g", "Ġ a", "e r", "h e", "l l", "he ll", "hell o")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_characters() -> list[str]:
    """The printable character that byte-level BPE writes for each of the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def bpe_tokens() -> list[str]:
    """A whole byte-level BPE vocabulary: the bytes, one token a merge, the special tokens last."""
    return [*byte_characters(), *(merge.replace(" ", "") for merge in MERGES), *SPECIAL_TOKENS]


def write_tiny_gguf(
    path: Path,
    architecture: Architecture = "gptneox",
    *,
    layers: int = 6,
    hidden: int = 64,
    heads: int = 2,
    kv_heads: int | None = None,
    feed_forward: int = 128,
    vocabulary: int = 320,
    context: int = 512,
    tied: bool = False,
    parallel_residual: bool = True,
    tokenizer: Tokenizer = "no_vocab",
    template: str = CHAT_TEMPLATE,
    controls: Sequence[str] = (),
    dtype: GGMLQuantizationType = GGMLQuantizationType.F16,
    seed: int = 0,
    tensors_a_part: int = 0,
    empty_first: bool = False,
) -> Path:
    """A random model of this geometry at `path`; its matrices are of `dtype`.

    tensors_a_part: splits it into files with so many tensors each; returned is the first one, which holds none if it
    is `empty_first`.

    kv_heads, tied: for "llama" only. parallel_residual: for "gptneox" only.
    With the "bpe" tokenizer the vocabulary is that of `bpe_tokens`, whatever `vocabulary` says; template: its chats'.
    controls: more control tokens, which come last.
    """
    writer = GGUFWriter(path, architecture, split_max_tensors=tensors_a_part, small_first_shard=empty_first)
    writer.add_name(path.stem)
    writer.add_block_count(layers)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    rows = add_tokenizer(writer, tokenizer, vocabulary, template, controls)
    writer.add_vocab_size(rows)
    random = np.random.default_rng(seed)
    if architecture == "gptneox":
        writer.add_rope_dimension_count(hidden // heads // 4)
        writer.add_parallel_residual(parallel_residual)
        writer.add_layer_norm_eps(1e-5)
        shapes = _gptneox_shapes(layers, hidden, feed_forward, rows)
    else:
        writer.add_head_count_kv(kv_heads or heads)
        writer.add_rope_dimension_count(hidden // heads)
        writer.add_layer_norm_rms_eps(1e-5)
        shapes = _llama_shapes(layers, hidden, hidden // heads * (kv_heads or heads), feed_forward, rows, tied)
    for name, shape in shapes.items():
        _add_tensor(writer, name, _random(random, name, shape), dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if tensors_a_part else path


def add_tokenizer(
    writer: GGUFWriter, tokenizer: Tokenizer, vocabulary: int, template: str, controls: Sequence[str] = ()
) -> int:
    """Returns the number of tokens."""
    if tokenizer == "no_vocab":
        writer.add_tokenizer_model("no_vocab")
        return vocabulary
    tokens, special = [*bpe_tokens(), *controls], {*SPECIAL_TOKENS, *controls}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    return len(tokens)


def _gptneox_shapes(layers: int, hidden: int, feed_forward: int, rows: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (rows, hidden)}
    for layer in range(layers):
        for name, width, depth in (
            ("attn_qkv", 3 * hidden, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_up", feed_forward, hidden),
            ("ffn_down", hidden, feed_forward),
        ):
            shapes[f"blk.{layer}.{name}.weight"] = (width, depth)
            shapes[f"blk.{layer}.{name}.bias"] = (width,)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{name}.weight"] = shapes[f"blk.{layer}.{name}.bias"] = (hidden,)
    shapes["output_norm.weight"] = shapes["output_norm.bias"] = (hidden,)
    shapes["output.weight"] = (rows, hidden)
    return shapes


def _llama_shapes(
    layers: int, hidden: int, kv_width: int, feed_forward: int, rows: int, tied: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (rows, hidden)}
    for layer in range(layers):
        for name, width, depth in (
            ("attn_q", hidden, hidden),
            ("attn_k", kv_width, hidden),
            ("attn_v", kv_width, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", feed_forward, hidden),
            ("ffn_up", feed_forward, hidden),
            ("ffn_down", hidden, feed_forward),
        ):
            shapes[f"blk.{layer}.{name}.weight"] = (width, depth)
        shapes[f"blk.{layer}.attn_norm.weight"] = shapes[f"blk.{layer}.ffn_norm.weight"] = (hidden,)
    shapes["output_norm.weight"] = (hidden,)
    if not tied:
        shapes["output.weight"] = (rows, hidden)
    return shapes


def _random(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Values of the size that keeps a network alive: matrices by their depth, norms about 1, biases about 0."""
    values = random.standard_normal(shape, np.float32)
    if len(shape) == 2:
        return values if name.startswith("token_embd") else values * np.float32(1.5 / shape[1] ** 0.5)
    return values * np.float32(0.1) + np.float32(name.endswith("norm.weight"))


def _add_tensor(writer: GGUFWriter, name: str, values: npt.NDArray[np.float32], dtype: GGMLQuantizationType) -> None:
    if values.ndim == 1:  # llama.cpp adds and multiplies vectors in f32 only
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, quantize(values, dtype), raw_dtype=dtype)
