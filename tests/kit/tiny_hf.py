"""Tiny random Hugging Face directories, written with NumPy alone: several shards, an index, a config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from kit.tiny_gguf import CHAT_TEMPLATE, MERGES, SPECIAL_TOKENS, bpe_tokens

Array = npt.NDArray[Any]
Family = Literal["gpt_neox", "llama", "mistral", "qwen2", "qwen3"]
Dtype = Literal["F32", "F16", "BF16"]

CLASSES = {
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def write_tiny_hf(
    folder: Path,
    family: Family = "llama",
    *,
    layers: int = 4,
    hidden: int = 64,
    heads: int = 2,
    kv_heads: int = 1,
    feed_forward: int = 128,
    vocabulary: int = 320,
    shards: int = 3,
    tied: bool = False,
    dtype: Dtype = "F32",
    seed: int = 0,
    **config: Any,
) -> Path:
    """A random model at `folder`, in `shards` safetensors files (1: no index). config: more keys of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
    }
    if family == "gpt_neox":
        settings |= {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.25, "rotary_emb_base": 10000}
        shapes = _neox_shapes(layers, hidden, feed_forward, vocabulary)
    else:
        settings |= {"hidden_act": "silu", "rms_norm_eps": 1e-6, "num_key_value_heads": kv_heads}
        shapes = _gated_shapes(family, layers, hidden, hidden // heads * kv_heads, feed_forward, vocabulary)
    (folder / "config.json").write_text(json.dumps(settings | config))
    random = np.random.default_rng(seed)
    names = [name for name in shapes if not (tied and name in ("lm_head.weight", "embed_out.weight"))]
    write_shards(folder, {name: _random(random, shapes[name], dtype) for name in names}, shards)
    return folder


def write_shards(folder: Path, tensors: dict[str, Array], shards: int = 1) -> None:
    """`model.safetensors`, or so many shards with their index; uint16 arrays are bfloat16."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return
    places: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[shard::shards]}
        write_safetensors(folder / file, part)
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16", "bool": "BOOL"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in tensors.items():
        begin, end = end, end + values.nbytes
        header[name] = {"dtype": names[str(values.dtype)], "shape": values.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in tensors.values()))


def _neox_shapes(layers: int, hidden: int, feed_forward: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (vocabulary, hidden)}
    for layer in range(layers):
        for name, width, depth in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", feed_forward, hidden),
            ("mlp.dense_4h_to_h", hidden, feed_forward),
        ):
            shapes[f"gpt_neox.layers.{layer}.{name}.weight"] = (width, depth)
            shapes[f"gpt_neox.layers.{layer}.{name}.bias"] = (width,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"gpt_neox.layers.{layer}.{name}.weight"] = (hidden,)
            shapes[f"gpt_neox.layers.{layer}.{name}.bias"] = (hidden,)
    shapes["gpt_neox.final_layer_norm.weight"] = shapes["gpt_neox.final_layer_norm.bias"] = (hidden,)
    shapes["embed_out.weight"] = (vocabulary, hidden)
    return shapes


def _gated_shapes(
    family: Family, layers: int, hidden: int, kv_width: int, feed_forward: int, vocabulary: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, width, depth in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv_width, hidden),
            ("self_attn.v_proj", kv_width, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", feed_forward, hidden),
            ("mlp.up_proj", feed_forward, hidden),
            ("mlp.down_proj", hidden, feed_forward),
        ):
            shapes[f"{prefix}{name}.weight"] = (width, depth)
            if family == "qwen2" and name.endswith(("q_proj", "k_proj", "v_proj")):
                shapes[f"{prefix}{name}.bias"] = (width,)
        if family == "qwen3":
            shapes[f"{prefix}self_attn.q_norm.weight"] = (hidden // 2,)
            shapes[f"{prefix}self_attn.k_norm.weight"] = (hidden // 2,)
        shapes[f"{prefix}input_layernorm.weight"] = shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def _random(random: np.random.Generator, shape: tuple[int, ...], dtype: Dtype) -> Array:
    values = random.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
    if dtype == "BF16":
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return values.astype(np.float16 if dtype == "F16" else np.float32)


def write_tiny_tokenizer(folder: Path) -> None:
    """The vocabulary of the tiny GGUF models."""
    tokens = [token for token in bpe_tokens() if token not in SPECIAL_TOKENS]
    merges = [(first, second) for first, second in map(str.split, MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": CHAT_TEMPLATE}))
