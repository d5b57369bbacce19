"""Writes models/causal_classes.py, what each class of the installed transformers lets us do: `make docs`."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

PAGE = Path(__file__).parent.parent / "src" / "potluck" / "models" / "causal_classes.py"

HEAD = '''"""What transformers' causal language models let us do, by the `model_type` of their config.json.

`make docs` generates this file, because importing transformers takes seconds and half a gigabyte, and a coordinator
needs neither it nor PyTorch. A test compares it with the installed library.
"""

from __future__ import annotations

from typing import Any


def _by_type(pairs: str) -> dict[str, str]:
    """The classes by their model types."""
    return dict(pair.split(":") for pair in pairs.split())
'''
KINDS = {
    "SPLITTABLE": "Their layers use the attention interface, and keep nothing but keys and values.",
    "OPAQUE": "Their layers do not use the attention interface, so nobody can give them a session's cache.",
    "WHOLE": "Trials showed that they fail, or compute something else, when only some of their layers are there.",
    "STATEFUL": "Some of their layers keep other state than keys and values.",
}
STATES = frozenset({"linear_attention", "conv", "mamba", "hybrid"})
"""The kinds of layers that keep other state than keys and values."""

WHOLE = frozenset(
    [
        *("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "modernbert-decoder", "roberta"),
        *("roberta-prelayernorm", "roc_bert", "xlm-roberta", "xlm-roberta-xl", "xmod", "diffllama", "doge", "gemma3n"),
        *("gemma3n_text", "gemma4_assistant", "gemma4_unified_assistant", "hrm_text", "hy_v4", "nemotron"),
        *("axk2", "deepseek_v32", "glm_moe_dsa"),
    ]
)
"""The types that use the attention interface, but whose spans failed or gave other logits than the whole model, when
tests/engine/test_splittable.py tried them as it tries all others."""
BY_INDEX = frozenset({"lfm2", "lfm2_moe"})
"""The types whose config.json may say by indices, not by kinds, which layers keep other state."""

WRAPPED = ("gemma3_text", "llama", "llama4_text", "mistral", "qwen2", "qwen3")
"""The types of the text parts of models that also see or hear. Their config.json leaves out what is the default."""
LEFT_OUT = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size",
    "max_position_embeddings", "intermediate_size", "hidden_act", "hidden_activation", "rms_norm_eps",
    "query_pre_attn_scalar", "sliding_window", "tie_word_embeddings",
)  # fmt: skip


def classes() -> dict[str, dict[str, str]]:
    """For each kind, the classes by their model types. What none has is no causal language model to transformers."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        config = CONFIG_MAPPING[kind]
        several = MODEL_FOR_CAUSAL_LM_MAPPING[config]
        one = several[0] if isinstance(several, tuple) else several
        found[_kind(kind, config, one)][kind] = one.__name__
    return found


def _kind(kind: str, config: Any, model: Any) -> str:
    if kind in WHOLE:
        return "WHOLE"
    if model._is_stateful or kind in BY_INDEX or STATES & set(_layers(config)):
        return "STATEFUL"
    return "SPLITTABLE" if model._supports_attention_backend else "OPAQUE"


def _layers(config: Any) -> list[str]:
    """The kinds of layers of a config as it is by default."""
    try:
        return getattr(config(), "layer_types", None) or []
    except StrictDataclassError:  # the defaults of a few are no valid config
        return []


def defaults() -> dict[str, dict[str, Any]]:
    from transformers import CONFIG_MAPPING

    made = {kind: CONFIG_MAPPING[kind]() for kind in WRAPPED}
    return {
        kind: {key: value for key in LEFT_OUT if (value := getattr(config, key, None)) is not None}
        for kind, config in made.items()
    }


def page() -> str:
    """The whole file."""
    found = classes()
    listed = [f'{name} = _by_type(\n    """\n{_lines(found[name])}\n    """\n)\n"""{KINDS[name]}"""' for name in KINDS]
    values = ",\n".join(f"    {json.dumps(kind)}: {_dict(each)}" for kind, each in defaults().items())
    told = '"""What is meant where the text part of a config.json leaves it out."""'
    return "\n".join(
        [HEAD, "", "\n\n".join(listed), f"\nDEFAULTS: dict[str, dict[str, Any]] = {{\n{values},\n}}\n{told}\n"]
    )


def _lines(found: dict[str, str]) -> str:
    pairs = " ".join(f"{kind}:{name}" for kind, name in found.items())
    return textwrap.indent(textwrap.fill(pairs, 116, break_long_words=False, break_on_hyphens=False), " " * 4)


def _dict(values: dict[str, Any]) -> str:
    items = "".join(
        f"        {json.dumps(key)}: {value if isinstance(value, bool) else json.dumps(value)},\n"
        for key, value in values.items()
    )
    return f"{{\n{items}    }}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
