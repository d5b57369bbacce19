"""The stock transformers model of a config, of which only one span has weights.

The whole model is built on the meta device, where tensors have shapes and no memory. Then the span's own tensors are
assigned. The other layers stay there and pass their input on, so that everything keeps the model's numbering: names of
tensors, kinds of layers, and whatever else a family derives from the number of a layer.

Shapes: t rows of the batch, w of them wanted, d the hidden size, V the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from potluck.engine import ragged_attention
from potluck.engine.ragged_attention import RaggedBatch
from potluck.engine.span_weights import SpanWeights
from potluck.errors import EngineError
from potluck.types import Span


class _Stopped(Exception):
    """Carries the hidden rows `[1, t, d]` out of a pass that ends before the model does."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.rows = rows


class SpanModel:
    """The modules of the model. Their weights come through `weights.load`.

    config: the content of config.json. dtype: that of weights and computation.
    Raises EngineError when transformers does not know the model or cannot give it our attention, SpanError for a span
    outside the model.
    """

    def __init__(self, config: Mapping[str, Any], span: Span, device: torch.device, dtype: torch.dtype | None) -> None:
        self.device = device
        self._model = _build(config, dtype)
        text = self._model.config.get_text_config(decoder=True)
        self.layers = int(text.num_hidden_layers)
        self.span = span.within(self.layers)
        self.hidden_size = int(text.hidden_size)
        self.vocabulary = int(self._model.get_output_embeddings().weight.shape[0])
        self.attend = ragged_attention.attend_function(self._model)
        self._layers = _layers(self._model, self.layers)
        for number, layer in enumerate(self._layers):
            if number not in span:
                layer.forward = _pass_on
        self._make_buffers()
        self.weights = SpanWeights(self._model, self._layers, span, device)

    def _make_buffers(self) -> None:
        """Make rotary frequencies and the like, which no checkpoint contains, as `from_pretrained` makes them."""
        self._model._move_missing_keys_from_meta_to_device(set(), {"": self.device}, None, None)
        self._model.initialize_weights()

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._model.dtype
        return dtype

    def run(self, inputs: torch.Tensor, batch: RaggedBatch, last: int, wanted: torch.Tensor) -> torch.Tensor:
        """One pass over token ids `[t]` (first span) or hidden rows `[t, d]`, up to layer `last`.

        wanted: the rows whose logits to return, `[w]`. Returns logits `[w, V]` after the model's last layer, and hidden
        rows `[t, d]` otherwise.
        """
        arguments: dict[str, Any] = {
            **self._entry(inputs),
            "position_ids": batch.positions[None],
            # Without this transformers takes a ragged batch for packed training data, and changes the mask's rule.
            "attention_mask": torch.ones(1, len(inputs), dtype=torch.long, device=self.device),
            "use_cache": False,
            "logits_to_keep": wanted,
            "ragged": batch,
        }
        with torch.inference_mode():
            rows = self._run(inputs[None], arguments, last)
        if batch.attended != set(range(self.span.first, last + 1)):
            raise EngineError(f"{type(self._model).__name__} cannot be split: not all its layers keep keys and values.")
        return rows

    def _entry(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The token ids. For a later span, zeros in place of embeddings: what the pass makes of them is replaced at the
        span's first layer, and embeddings may be narrower than hidden rows.
        """
        if self.span.first == 0:
            return {"input_ids": inputs[None]}
        width = self._model.get_input_embeddings().weight.shape[1]
        return {"inputs_embeds": inputs.new_zeros(1, len(inputs), width)}

    def _run(self, inputs: torch.Tensor, arguments: dict[str, Any], last: int) -> torch.Tensor:
        with ExitStack() as hooks:
            if self.span.first > 0:
                hooks.enter_context(_enter(self._layers[self.span.first], inputs))
            if last == self.layers - 1:
                logits: torch.Tensor = self._model(**arguments).logits
                return logits[0]
            hooks.enter_context(self._layers[last].register_forward_hook(_stop))
            try:
                self._model(**arguments)
            except _Stopped as stopped:
                return stopped.rows[0]
        raise EngineError(f"{type(self._model).__name__} has not run its layer {last}.")


def _build(config: Mapping[str, Any], dtype: torch.dtype | None) -> PreTrainedModel:
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise EngineError(f"transformers knows no model of the type {kind!r}.")
    if config.get("quantization_config"):
        raise EngineError("The transformers engine runs no pre-quantized weights; use the model's original files.")
    try:
        parsed = CONFIG_MAPPING[kind].from_dict(dict(config))
        _check_class(parsed)
        options = {"attn_implementation": ragged_attention.NAME} | ({} if dtype is None else {"dtype": dtype})
        with torch.device("meta"), no_init_weights():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(parsed, **options)
    except EngineError:
        raise
    except Exception as error:  # whatever a family's code makes of a strange config
        raise EngineError(f"transformers cannot build a model of the type {kind!r} from its config: {error}") from error
    return model.eval()


def _check_class(config: PreTrainedConfig) -> None:
    """Raises EngineError unless the model's class lets us replace its attention, and keeps no other state."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise EngineError(f"transformers has no causal language model of the type {config.model_type!r}.")
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model_class = found[0] if isinstance(found, tuple) else found
    if model_class._is_stateful or not model_class._supports_attention_backend:
        raise EngineError(f"{model_class.__name__} cannot be split: its layers do not use the attention interface.")


def _layers(model: PreTrainedModel, count: int) -> nn.ModuleList:
    """The list of the decoder's layers, whatever the family calls it."""
    for module in model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise EngineError(f"{type(model).__name__} cannot be split: it keeps no list of its {count} layers.")


def _pass_on(hidden_states: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
    """Takes the place of a layer that another node runs."""
    return hidden_states


def _enter(layer: nn.Module, rows: torch.Tensor) -> RemovableHandle:
    """Give the layer these rows as its input: what a family does to embeddings must not be done to hidden rows."""

    def replace(_layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return ((rows, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": rows})

    return layer.register_forward_pre_hook(replace, with_kwargs=True)


def _stop(_layer: nn.Module, _args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
    raise _Stopped(output[0] if isinstance(output, tuple) else output)
