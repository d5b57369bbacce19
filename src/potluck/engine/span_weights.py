"""Leads a checkpoint's tensors into a model of which only one span is wanted.

Checkpoints use names that a family's class has since changed, and keep experts separate that the class holds in one
tensor. transformers' own conversions translate them. This module decides which of the tensors a span needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from potluck.engine.base import Progress
from potluck.engine.quantize import Quantize, quantize_linears
from potluck.errors import EngineError
from potluck.types import Span


class SpanWeights:
    """The parameters of `model`, whose layers are `layers`, that `span` needs."""

    def __init__(self, model: PreTrainedModel, layers: nn.ModuleList, span: Span, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._layers = layers
        self._span = span
        self._parameters = model.state_dict()
        self._conversions = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in self._conversions if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in self._conversions if isinstance(entry, WeightConverter)]
        self._beside = self._below_path(self._path(layers).rpartition(".")[0]) - self._below(layers)
        self._beside -= self._below(_embedding(model)) | self._below(_head(model))
        self._tied = model.all_tied_weights_keys | {one: other for other, one in model.all_tied_weights_keys.items()}

    def _below(self, module: nn.Module) -> set[str]:
        """The names of the parameters of one of the model's modules."""
        return self._below_path(self._path(module))

    def _path(self, module: nn.Module) -> str:
        return str(next(name for name, candidate in self._model.named_modules() if candidate is module))

    def _below_path(self, path: str) -> set[str]:
        prefix = f"{path}." if path else ""
        return {name for name in self._parameters if name.startswith(prefix)}

    def needed(self, names: Iterable[str]) -> list[str]:
        """The tensors of a checkpoint that the span needs, by the checkpoint's names."""
        return [name for group in self._groups(names) for name in group]

    def _groups(self, names: Iterable[str]) -> list[list[str]]:
        """The needed names: first those outside the layers, then layer by layer."""
        targets = {name: self._target(name) for name in names}
        wanted = [self._outside(set(targets.values())), *map(self._of_layer, self._numbers())]
        return [[name for name, target in targets.items() if target in group] for group in wanted]

    def _target(self, name: str) -> str:
        """The parameter that a checkpoint's tensor becomes, alone or with others."""
        prefix = self._model.base_model_prefix
        target, _ = rename_source_key(name, self._renamings, self._converters, prefix, self._parameters)
        return name if target not in self._parameters and name in self._parameters else target

    def _numbers(self) -> range:
        return range(self._span.first, self._span.last + 1)

    def _of_layer(self, layer: int) -> set[str]:
        return self._below(self._layers[layer])

    def _outside(self, available: set[str]) -> set[str]:
        """The needed tensors outside the layers: embedding and head only at their end of the model, as the checkpoint
        has them.

        Whatever else is beside the layers (final norm, tables of positions) is small, and only the family's code knows
        where in the pass it is used, so every span takes it.
        """
        ends = {name if name in available else self._tied.get(name, name) for name in self._ends()}
        return ends | self._beside

    def _ends(self) -> set[str]:
        first = self._below(_embedding(self._model)) if self._span.first == 0 else set()
        last = self._below(_head(self._model)) if self._has_head() else set()
        return first | last

    def _has_head(self) -> bool:
        return self._span.last == len(self._layers) - 1

    def load(self, weights: Mapping[str, torch.Tensor], quantize: Quantize | None, progress: Progress) -> None:
        """Assign the needed tensors, reading one layer's at a time so that memory stays near its final size.

        weights: by the checkpoint's names; there may be more. Raises EngineError when one is missing, has a wrong
        shape, or cannot be quantized.
        """
        outside, *layers = self._groups(weights)
        self._assign(weights, outside)
        for layer, names in zip(self._numbers(), layers, strict=True):
            self._assign(weights, names)
            self._check_loaded(self._of_layer(layer))
            if quantize is not None:
                quantize_linears(self._layers[layer], quantize)
            progress((layer - self._span.first + 1) / len(self._span))
        self._tie()
        self._check_loaded(self._ends() | self._beside)

    def _assign(self, weights: Mapping[str, torch.Tensor], names: list[str]) -> None:
        """Assign tensors through transformers' own loader, which renames, merges and casts as the family requires."""
        options = LoadStateDictConfig(
            device_map={"": self._device},
            dtype=self._model.dtype,
            dtype_plan=self._model._get_dtype_plan(self._model.dtype),
            weight_mapping=self._conversions,
        )
        with _no_progress_bar():
            info, _ = convert_and_load_state_dict_in_model(
                self._model, {name: weights[name] for name in names}, options
            )
        for name, shape, expected in sorted(info.mismatched_keys):
            raise EngineError(f"The tensor {name} has the shape {tuple(shape)} where {tuple(expected)} was expected.")
        for name, error in info.conversion_errors.items():
            raise EngineError(f"The tensor {name} cannot be made from the model's files: {error}.")

    def _tie(self) -> None:
        """If embedding and head are one, let whichever was loaded serve as both."""
        if self._ends():
            self._model.tie_weights(missing_keys=self._missing(), recompute_mapping=False)

    def _missing(self) -> set[str]:
        return {name for name, tensor in self._model.state_dict().items() if tensor.is_meta}

    def _check_loaded(self, parameters: set[str]) -> None:
        lacking = sorted(parameters & self._missing())
        if lacking:
            raise EngineError(f"The model's files lack the tensor {lacking[0]}, or what it is made of.")


def _embedding(model: PreTrainedModel) -> nn.Module:
    module: nn.Module = model.get_input_embeddings()
    return module


def _head(model: PreTrainedModel) -> nn.Module:
    module: nn.Module = model.get_output_embeddings()
    return module


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Turn off transformers' progress bars, because it would draw one for every layer."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
