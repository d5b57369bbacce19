"""Ragged attention: one row of tokens from many sessions, each of which attends only to its own positions.

transformers looks attention functions up by name, which lets us give one to every family's stock model. The mask is
looked up by the same name; without one transformers makes none, and causality is silently lost.

Shapes: t rows of the batch, n rows and m positions of one session, h query heads, g key/value heads, e size of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from potluck.engine.kvcache import SessionKv
from potluck.errors import EngineError

NAME = "potluck"
"""The value of `attn_implementation` with which a model uses this attention."""

MaskRule = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Given (batch, head, query position, key position), whether the query may see the key. transformers composes it of
causality, sliding windows and chunks, as the layer's type demands."""


class AttentionModule(Protocol):
    """The attributes of every family's attention module. Its class is defined beside the family's own attention
    functions.
    """

    layer_idx: int


Attend = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one session in the batch, and the cache that they extend."""

    cache: SessionKv
    rows: slice


class RaggedBatch:
    """The rows of one pass: which session each belongs to, and what it may see."""

    def __init__(self, caches: Sequence[SessionKv], rows: Sequence[int], attend: Attend, device: torch.device) -> None:
        """rows: the number of rows of each session. attend: runs one session's attention."""
        ends = [sum(rows[: index + 1]) for index in range(len(rows))]
        parts = zip(caches, rows, ends, strict=True)
        self.parts = [Part(cache, slice(end - count, end)) for cache, count, end in parts]
        self.attend = attend
        spans = [torch.arange(c.length, c.length + n) for c, n in zip(caches, rows, strict=True)]
        self.positions = torch.cat(spans).to(device)
        self.attended: set[int] = set()
        """The layers that have put their keys and values into the caches."""
        self._masks: dict[MaskRule, list[torch.Tensor | None]] = {}

    def masks(self, rule: MaskRule) -> list[torch.Tensor | None]:
        """For each session `[1, 1, n, m]` bool, or None if one row sees all. Made once for all layers of a kind."""
        if rule not in self._masks:
            self._masks[rule] = [self._mask(rule, part) for part in self.parts]
        return self._masks[rule]

    def _mask(self, rule: MaskRule, part: Part) -> torch.Tensor | None:
        query = self.positions[part.rows]
        key = torch.arange(part.cache.length + len(query), device=query.device)
        zero = key.new_zeros(1, 1, 1, 1)
        mask = rule(zero, zero, query[None, None, :, None], key[None, None, None, :])
        return None if len(query) == 1 and bool(mask.all()) else mask.expand(1, 1, len(query), len(key))


def ragged_attention(
    module: AttentionModule,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    *,
    ragged: RaggedBatch | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query `[1, h, t, e]`, key and value `[1, g, t, e]`. Returns `[1, t, h, e]` and, as always here, no weights.

    ragged: the batch that the model was called with, if its code hands such arguments down. Raises EngineError when it
    has not done so, or has not asked for a mask.
    """
    if ragged is None or not callable(attention_mask):
        raise EngineError(f"{type(module).__name__} cannot be given ragged batches.")
    outputs = []
    for part, mask in zip(ragged.parts, ragged.masks(attention_mask), strict=True):
        rows = part.rows
        keys, values = part.cache.append(module.layer_idx, key[:, :, rows], value[:, :, rows])
        outputs.append(ragged.attend(module, query[:, :, rows], keys, values, mask, **options)[0])
    ragged.attended.add(module.layer_idx)
    return torch.cat(outputs, dim=1), None


def mask_rule(*, mask_function: MaskRule, **_shape: object) -> MaskRule:
    """The rule in place of a mask: transformers knows one shape for the batch, and we have one for each session."""
    return mask_function


def attend_function(model: PreTrainedModel) -> Attend:
    """PyTorch's fused attention, or the family's own plain one if that computes what the fused one cannot."""
    return sdpa_attention_forward if model._supports_sdpa else _eager


def _eager(
    module: AttentionModule,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    plain: Attend = sys.modules[type(module).__module__].eager_attention_forward
    added = None if mask is None else torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    return plain(module, query, key, value, added, **options)


AttentionInterface.register(NAME, ragged_attention)
AttentionMaskInterface.register(NAME, mask_rule)
