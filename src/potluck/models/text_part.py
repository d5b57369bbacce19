"""The text part of a model that also sees or hears: its config and its tensors, as if it were a model by itself.

Wrapper classes (Gemma 3, Mistral Small 3.1, Llama 4, LLaVA) have the config of their language model under
`text_config`, and its tensors under a prefix beside those for pictures and sounds, which are left out.
"""

from __future__ import annotations

import re

from potluck.errors import ModelError
from potluck.models.causal_classes import DEFAULTS, OPAQUE, SPLITTABLE, STATEFUL, WHOLE
from potluck.models.fields import Config
from potluck.models.files import shown

_KEY = "text_config"
_INHERITED = ("quantization_config", "compression_config", "quantization", "torch_dtype", "dtype", "eos_token_id")
"""What a wrapper says of the whole, the text part included."""

_TEXT = re.compile(r"(?:model\.)?language_model\.(?:model\.)?|model\.(?=(?:embed_tokens|layers|norm)\.)")
_HEAD = re.compile(r"(?:language_model\.)?(lm_head\..+)")


def text_part(where: str, config: Config) -> Config:
    """The config of the text part; the config itself if it is one of a text model.

    where: the path of the config.json, for messages. Raises ModelError when transformers has no such text model.
    """
    inner = config.get(_KEY)
    if inner is None:
        return config
    if not isinstance(inner, dict):
        raise ModelError(f"{where} is broken: its {_KEY} is not an object; fetch it again.")
    kind = inner.get("model_type")
    known = {**SPLITTABLE, **OPAQUE, **WHOLE, **STATEFUL}
    if not isinstance(kind, str) or kind not in known:
        raise ModelError(
            f"{where} describes a text part of the type {shown(kind)}, which no engine runs by itself: look for a GGUF "
            "file of the model."
        )
    inherited = {key: config[key] for key in _INHERITED if config.get(key) is not None}
    tied = config.get("tie_word_embeddings")
    named = {"architectures": [known[kind]], "model_type": kind}
    return DEFAULTS.get(kind, {}) | ({} if tied is None else {"tie_word_embeddings": tied}) | inherited | inner | named


def is_wrapper(config: Config) -> bool:
    """Whether only a part of the model is a language model."""
    return config.get(_KEY) is not None


def text_name(name: str) -> str | None:
    """The name of a wrapper's tensor in the text model by itself; None if it does not belong to the text."""
    if head := _HEAD.fullmatch(name):
        return head[1]
    found = _TEXT.match(name)
    return f"model.{name[found.end() :]}" if found else None
