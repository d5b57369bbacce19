"""Decides from its config.json whether any engine runs a model, and says why not, before a weight is read.

What every node would refuse, the coordinator refuses first. Everything here is a pure function; `where` is the path of
the config.json, for messages.
"""

from __future__ import annotations

from typing import Any

from potluck.errors import ModelError
from potluck.models import families
from potluck.models.causal_classes import OPAQUE, SPLITTABLE, STATEFUL, WHOLE
from potluck.models.config_types import check_converted
from potluck.models.fields import Config
from potluck.models.files import shown

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_QUANTIZED = ("quantization_config", "compression_config", "quantization")
"""The keys under which transformers, older compressed-tensors and MLX say that weights are quantized."""
_STATES = frozenset({"linear_attention", "conv", "mamba", "recurrent", "hybrid"})
"""The kinds of layers, among `layer_types`, that keep other state than keys and values."""
_UNQUANTIZED = "fetch the model's unquantized files, or a GGUF file of it"


def check_runnable(where: str, config: Config) -> None:
    """Raises ModelError, with the reason, when no engine runs this model."""
    _check_unquantized(where, config)
    name = families.architecture_of(config)
    if not name.endswith(_CAUSAL):
        raise ModelError(
            f"{where} names {shown(name) or 'no architecture'}, which no engine runs: choose a causal language model "
            f"({', '.join(families.FAMILIES)}, or any other …ForCausalLM with the transformers engine)."
        )
    fault = transformers_fault(config)
    if fault is None:
        return
    family = families.family_of(config)
    if family is None:
        raise ModelError(f"{where} names {shown(name)}, which no engine runs: {fault}.")
    check_converted(where, config)
    if (lacking := families.fault(config, family)) is not None:
        raise ModelError(f"{where} asks for {lacking}, which the llama.cpp engine cannot do, and {fault}.")


def _check_unquantized(where: str, config: Config) -> None:
    for key in _QUANTIZED:
        if told := config.get(key):
            raise ModelError(
                f"{where} says that the weights are already quantized{_method(told)}, which no engine runs: "
                f"{_UNQUANTIZED}."
            )


def _method(told: Any) -> str:
    method = told.get("quant_method") if isinstance(told, dict) else None
    return f" ({shown(method)})" if method else ""


def quantized_weights(place: str, name: str, dtype: str) -> ModelError:
    """The error for a matrix whose numbers are codes. place: of its file."""
    return ModelError(
        f"{place} holds {shown(name)} in the type {dtype}, so its weights are already quantized, which no engine runs: "
        f"{_UNQUANTIZED}."
    )


def transformers_fault(config: Config) -> str | None:
    """Why the transformers engine cannot run this model; None if it can."""
    kind = config.get("model_type")
    if kind in OPAQUE:
        return f"transformers' models of the type {kind} cannot be split, because they have no attention interface"
    if kind in WHOLE:
        return f"transformers' models of the type {kind} do not work in parts"
    if config.get("hidden_size_per_layer_input"):
        return f"in models of the type {kind} every layer reads the tokens, which only the first node has"
    other = _STATES & {each for each in config.get("layer_types") or () if isinstance(each, str)}
    if kind in STATEFUL or other:
        return f"models of the type {kind} keep other state than keys and values, which transformers cannot split"
    if kind not in SPLITTABLE:
        return f"transformers knows no causal language model of the type {shown(kind)}"
    return None
