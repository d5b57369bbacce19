"""Decides where a model of llama.cpp may be cut, and with which metadata a span computes as the model does. Pure.

`potluck.models.architectures` says what has to be regarded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

from potluck.errors import ModelError
from potluck.models.architectures import SIDE_INPUTS, TABLE, Architecture, Metadata, Recurrent
from potluck.types import ANY_NUMBER, Cuts, Span

Entries = dict[str, tuple[list[str], Any]]

PER_LAYER = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.indexer.types",
    "attention.recurrent_layers",
    "attention.rope_pattern",
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "swiglu_clamp_exp",
    "swiglu_clamp_shexp",
)
"""The metadata that may be arrays with one entry for each layer."""
COUNTS = (
    "attention.indexer.types",
    "attention.key_length_mla",
    "attention.recurrent_layers",
    "attention.shared_kv_layers",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "embedding_length_per_layer_input",
    "feed_forward_length",
    "full_attention_interval",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "rope.dimension_count",
    "rope.dimension_sections",
    "rope.scaling.original_context_length",
)
"""The metadata that are read here and must be whole numbers, or yes and no."""
SECTIONS = "rope.dimension_sections"
"""The parts of a position, which are several numbers."""
PER_LAYER_WITHOUT_NAME = ("xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps")
_CONTEXT_OF_SHARED_INDEXERS = 1 << 20
_UNKNOWN = Architecture()
"""Stands for an architecture that is not in the table."""


def row_of(architecture: str) -> Architecture:
    """How this architecture can be cut. One that nobody has looked at is taken to be the same in all layers."""
    return TABLE.get(architecture, _UNKNOWN)


def is_known(architecture: str) -> bool:
    """Whether it is known how this architecture can be cut."""
    return architecture in TABLE


def cuts(model: Metadata) -> Cuts:
    """The cuts that are allowed. Raises ModelError, with the reason, when the model can be cut nowhere."""
    row = row_of(model.architecture)
    if reason := row.refusal or _refusal(model, row):
        raise ModelError(f"Models of the architecture {model.architecture} cannot be split: {reason}.")
    needed, kinds = _needed(model, row), _kinds(model, row)
    candidates = [*range(0, model.layers, row.period), model.layers]
    upwards = _points(candidates, lambda first, end: needed <= set(kinds[first:end]))
    downwards = _points(candidates[::-1], lambda end, first: needed <= set(kinds[first:end]))[::-1]
    # Where a layer that cannot stand alone is the last of its period, spans found from the end are more even.
    points = max(upwards, downwards, key=lambda each: (len(each), -max(end - first for first, end in pairwise(each))))
    return Cuts(tuple(points), row.telling)


def _points(candidates: list[int], is_span: Callable[[int, int], bool]) -> list[int]:
    """As many of these places as possible, such that the layers between each two that follow each other are a span."""
    points = candidates[:1]
    for place in candidates[1:]:
        if is_span(points[-1], place):
            points.append(place)
    if points[-1] != candidates[-1]:  # what is left at the end is no span of its own
        points[max(1, len(points) - 1) :] = candidates[-1:]
    return points


def _refusal(model: Metadata, row: Architecture) -> str:
    """Why this model cannot be cut though others of its architecture can."""
    if model.layers in row.telling and not row.derived(model):
        return f"llama.cpp recognises one of {model.layers} layers, and computes it in another way than fewer layers"
    if any(model.get(key) for key in row.side_inputs):
        return SIDE_INPUTS
    if row.period > 1 and row.windows is not None and _windows(model, row) is None:
        return "without sliding windows llama.cpp computes its layers by their number"
    if model.get("interleave_moe_layer_step", 1) not in (0, 1, 2, 4) and row.period > 1:
        return "its experts are not in every layer, or every second or fourth one"
    if model.architecture == "ernie4_5-moe" and model.get("interleave_moe_layer_step", 1) != 1:
        return "its experts are not in every layer"
    if model.architecture == "command-r" and model.layers >= 64:
        return "llama.cpp expects other tensors in a model of 64 layers or more"
    if model.architecture == "glm-dsa" and not _has_own_indexers(model):
        return "some of its layers attend to what the indexer of an earlier one has chosen"
    if model.architecture == "glm4" and not _has_sections(model):
        return "llama.cpp takes rows between its layers only if its positions have sections"
    return ""


def _has_sections(model: Metadata) -> bool:
    sections = model.get(SECTIONS)
    return isinstance(sections, list) and any(sections)


def _has_own_indexers(model: Metadata) -> bool:
    """Whether each layer of a GLM-5 has an indexer of its own; llama.cpp takes a long context for a sign of others."""
    types = model.get("attention.indexer.types")
    return all(types) if isinstance(types, list) else model.get("context_length", 0) < _CONTEXT_OF_SHARED_INDEXERS


def _kinds(model: Metadata, row: Architecture) -> Sequence[str]:
    """The kind of each layer, as far as spans need some of them."""
    if row.recurrent is not Recurrent.NONE:
        heads = of_layers(model, "attention.head_count_kv", model.get("attention.head_count"))
        attention = ["attention" if count else "other" for count in heads]
        return ["recurrent" if one else kind for one, kind in zip(recurrent_layers(model), attention, strict=True)]
    windows = _windows(model, row) or [False] * model.layers
    return ["window" if one else "full" for one in windows]


def _needed(model: Metadata, row: Architecture) -> set[str]:
    if row.recurrent not in (Recurrent.NONE, Recurrent.ALL):
        return {"recurrent", "attention"}
    if row.windows is None or _windows(model, row) is None:
        return set()
    return {"window", "full"} if row.windows.both else {"window"}


def recurrent_layers(model: Metadata) -> list[bool]:
    """Whether each layer keeps a recurrent state."""
    match row_of(model.architecture).recurrent:
        case Recurrent.NONE:
            return [False] * model.layers
        case Recurrent.ALL:
            return [True] * model.layers
        case Recurrent.INTERVAL:
            given = model.get("attention.recurrent_layers")
            interval = model.get("full_attention_interval", 4) or model.layers + 1
            return [bool(given[i]) if isinstance(given, list) else (i + 1) % interval != 0 for i in range(model.layers)]
        case Recurrent.NO_HEADS:
            return [not heads for heads in of_layers(model, "attention.head_count_kv")]
    widths = of_layers(model, "feed_forward_length")
    return [not any(both) for both in zip(of_layers(model, "attention.head_count_kv"), widths, strict=True)]


def most_forgotten(model: Metadata) -> int:
    """How many of its latest positions a session can surely forget."""
    if any(recurrent_layers(model)):
        return 0
    return ANY_NUMBER if _windows(model, row_of(model.architecture)) is None and is_known(model.architecture) else 1


def of_layers(model: Metadata, key: str, default: Any = None) -> list[Any]:
    """The value of a key for each layer, which the file may give once for all."""
    value = model.get(key, default)
    return list(value[: model.layers]) if isinstance(value, list) else [value] * model.layers


def _windows(model: Metadata, row: Architecture) -> list[bool] | None:
    """Whether each layer has a sliding window; None for a model without windows."""
    if row.windows is None or not model.get("attention.sliding_window", not row.windows.optional):
        return None
    given = model.get("attention.sliding_window_pattern", row.windows.every)
    if isinstance(given, list):
        return [bool(one) for one in given[: model.layers]]
    if given == 0:
        return [True] * model.layers
    full = 0 if row.windows.full_first else given - 1
    return [layer % given != full for layer in range(model.layers)]


class SpanMetadata:
    """The metadata of one span of a model."""

    def __init__(self, model: Metadata, span: Span) -> None:
        self._model = model
        self._span = span
        self._row = row_of(model.architecture)

    @property
    def leaving(self) -> tuple[str, ...]:
        """The beginnings of the names of tensors that only the last span needs."""
        return self._row.exit

    @property
    def is_long(self) -> bool:
        """Whether the model was trained for a longer context than at first."""
        context = self._model.get("context_length", 0)
        return bool(context > self._model.get("rope.scaling.original_context_length", context))

    @property
    def unused(self) -> tuple[str, ...]:
        """The tensors outside the layers that llama.cpp does not have with these layers."""
        windows = _windows(self._model, self._row)
        has_full = windows is None or not all(windows[self._span.first : self._span.last + 1])
        return () if has_full else self._row.of_full_layers

    def entries(self) -> Entries:
        """All metadata of the model, as the span needs them."""
        prefix = f"{self._model.architecture}."
        sliced = {key: self._sliced(key.removeprefix(prefix), *entry) for key, entry in self._model.entries.items()}
        changed = {prefix + key: entry for key, entry in self._changed().items()}
        return {key: entry for key, entry in (sliced | changed).items() if entry is not None}

    def _sliced(self, key: str, kinds: list[str], value: Any) -> tuple[list[str], Any]:
        if isinstance(value, list) and key in PER_LAYER + PER_LAYER_WITHOUT_NAME:
            value = value[self._span.first : self._span.last + 1]
        return kinds, value

    def _changed(self) -> dict[str, Any]:
        """The metadata that differ from the model's, or that llama.cpp would derive wrongly; None leaves one out."""
        model, span, row = self._model, self._span, self._row
        changed: dict[str, Any] = {"block_count": _entry(len(span))}
        missing = {key: value for key, value in self._derived.items() if model.get(key) is None}
        changed |= {key: _entry(value) for key, value in missing.items()}
        if model.get("nextn_predict_layers"):
            changed["nextn_predict_layers"] = _entry(0)
        if row.leading_dense:
            changed["leading_dense_block_count"] = _entry(
                max(0, model.get("leading_dense_block_count", 0) - span.first)
            )
        if (windows := _windows(model, row)) is not None:
            changed["attention.sliding_window_pattern"] = _entry(windows[span.first : span.last + 1])
        if row.recurrent is Recurrent.INTERVAL:
            changed["attention.recurrent_layers"] = _entry(recurrent_layers(model)[span.first : span.last + 1])
        if span.first > 0:
            changed |= {key: None if value is None else _entry(value) for key, value in row.entry.items()}
            if row.sections and not _has_sections(model):
                quarter = self._rotary // 4
                changed["rope.dimension_sections"] = _entry([quarter, quarter, 0, 0])
        return changed

    @cached_property
    def _derived(self) -> dict[str, Any]:
        """What llama.cpp derives from the number of layers, or from the first of them."""
        heads = of_layers(self._model, "attention.head_count", 0)[0]
        if not heads:
            return self._row.derived(self._model)
        size = self._model.get("embedding_length") // heads
        return self._row.derived(self._model) | {"attention.key_length": size, "attention.value_length": size}

    @property
    def _rotary(self) -> int:
        size = self._model.get("attention.key_length", self._derived.get("attention.key_length"))
        return int(self._model.get("rope.dimension_count", size))


def _entry(value: Any) -> tuple[list[str], Any]:
    match value:
        case list():
            return ["ARRAY", *_entry(value[0])[0]], value
        case bool():
            return ["BOOL"], value
        case int():
            return ["UINT32"], value
    return ["FLOAT32"], float(value)
