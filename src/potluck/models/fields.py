"""Reads values from config.json, under the names of today and of older families, and writes them as GGUF metadata."""

from __future__ import annotations

from typing import Any

from potluck.errors import ModelError

Config = dict[str, Any]
Entries = dict[str, tuple[list[str], Any]]
"""GGUF metadata: the value types and the value of each key."""

_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    "hidden_act": ("hidden_activation", "hidden_act", "activation_function", "activation"),
    "num_experts": ("num_experts", "num_local_experts"),
    "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon", "norm_eps"),
}
"""Today's names, each with all under which a family may have the value, the one that counts first."""

_UNSAID = {"falcon": {"max_position_embeddings": 2048, "hidden_act": "gelu"}}
"""The values that a type's files leave out."""


def usual(config: Config) -> Config:
    """The config with its values under the names of today too."""
    found = {name: _first(config, names) for name, names in _NAMES.items()}
    unsaid = _UNSAID.get(str(config.get("model_type")), {})
    return config | unsaid | {name: value for name, value in found.items() if value is not None}


def _first(config: Config, names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def field(where: str, config: Config, key: str) -> Any:
    """A value. Raises ModelError when the config has none. where: the path of the file, for messages."""
    if config.get(key) is None:
        raise ModelError(f"{where} has no {key}; it is not a complete model.")
    return config[key]


def head_size(where: str, config: Config) -> int:
    """The size of a head, of a config as `usual` gives it."""
    heads = int(field(where, config, "num_attention_heads"))
    return int(config.get("head_dim") or int(field(where, config, "hidden_size")) // heads)


def kv_heads(where: str, config: Config) -> int:
    """The number of key/value heads, of a config as `usual` gives it."""
    shared = config.get("multi_query", config.get("model_type") in ("falcon", "gpt_bigcode"))
    if shared and not config.get("new_decoder_architecture"):
        return 1
    return int(config.get("num_key_value_heads") or field(where, config, "num_attention_heads"))


def of_uint(value: Any) -> tuple[list[str], int]:
    return ["UINT32"], int(value)


def of_float(value: Any) -> tuple[list[str], float]:
    return ["FLOAT32"], float(value)


def of_bool(value: Any) -> tuple[list[str], bool]:
    return ["BOOL"], bool(value)
