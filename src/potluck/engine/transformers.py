"""The transformers engine, which runs a span of any Hugging Face model through its stock PyTorch class.

No family is named here: a model whose class supports transformers' attention interface runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from potluck.engine.base import Output, Progress, Segment, check_batch, ignore
from potluck.engine.exclusive import claim_process
from potluck.engine.kvcache import KvCache
from potluck.engine.quantize import Quantize
from potluck.engine.ragged_attention import RaggedBatch
from potluck.engine.span_model import SpanModel
from potluck.errors import EngineError
from potluck.types import Capacity, Span

Weights = Mapping[str, torch.Tensor]
"""The tensors of a checkpoint by its own names, with layers in the model's numbering. They may be read lazily: the
engine lists the names, and then reads each tensor that its span needs once, layer by layer."""


class TransformersEngine:
    """Implements `potluck.engine.base.Engine`.

    config: the content of the model's config.json. threads: of PyTorch's CPU kernels, in the whole process.
    dtype: that of weights and computation; None means the config's, or float32 if it names none.
    quantize: weight-only, for the layers; None means not at all. device: None means a GPU if there is one.
    Raises EngineError when transformers cannot run the model, when tensors are missing, or when llama.cpp is loaded in
    this process; SpanError for a span outside the model.
    """

    build = ""
    """PyTorch promises no bits: its kernels change with the number of rows and threads."""

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Weights,
        *,
        span: Span,
        capacity: Capacity,
        threads: int,
        dtype: torch.dtype | None = None,
        quantize: Quantize | None = None,
        device: torch.device | None = None,
        progress: Progress = ignore,
    ) -> None:
        claim_process("PyTorch")
        self.span = span
        self.capacity = capacity
        torch.set_num_threads(threads)
        self._model = SpanModel(config, span, device or best_device(), dtype)
        self.layers = self._model.layers
        self.hidden_size = self._model.hidden_size
        self.vocabulary = self._model.vocabulary
        self._model.weights.load(weights, quantize, progress)
        self._cache = KvCache(capacity)

    def must_arrange(self, lengths: Mapping[int, int]) -> bool:
        """It never does."""
        return False

    def use_cores(self, cores: Sequence[int]) -> None:
        """Use as many threads as there are CPUs; PyTorch places them itself."""
        if len(cores) != torch.get_num_threads():
            torch.set_num_threads(len(cores))

    def forward(self, batch: Sequence[Segment]) -> list[Output]:
        check_batch(self, batch)
        last = batch[0].last
        counts = [segment.rows for segment in batch]
        caches = self._cache.reserve([segment.session for segment in batch], sum(counts), last)
        ragged = RaggedBatch(caches, counts, self._model.attend, self._model.device)
        try:
            output = self._model.run(self._inputs(batch), ragged, last, self._wanted(batch)).float().cpu().numpy()
        except EngineError:
            raise
        except Exception as error:  # whatever a family's code or a device raises; the cache counts nothing yet
            raise EngineError(f"transformers cannot run layers {self.span}: {error}") from error
        for segment, cache in zip(batch, caches, strict=True):
            self._cache.commit(segment.session, cache, segment.rows, last)
        return _split(output, [segment.wanted for segment in batch] if last == self.layers - 1 else counts)

    def _inputs(self, batch: Sequence[Segment]) -> torch.Tensor:
        """All rows one after the other: token ids int64, or hidden rows in the model's dtype."""
        rows = torch.from_numpy(np.concatenate([segment.data for segment in batch]))
        return rows.to(self._model.device, torch.int64 if self.span.first == 0 else self._model.dtype)

    def _wanted(self, batch: Sequence[Segment]) -> torch.Tensor:
        """The rows of the batch whose logits are wanted, which are the last ones of each segment."""
        ends = accumulate(segment.rows for segment in batch)
        rows = [row for segment, end in zip(batch, ends, strict=True) for row in range(end - segment.wanted, end)]
        return torch.tensor(rows, dtype=torch.int64, device=self._model.device)

    def rest(self) -> None:
        """Do nothing, because PyTorch's pool serves every caller."""

    @property
    def sessions(self) -> int:
        return len(self._cache)

    def length(self, session: int) -> int:
        return self._cache.length(session)

    def truncate(self, session: int, length: int) -> None:
        self._cache.truncate(session, length)

    def close(self, session: int) -> None:
        self._cache.close(session)

    def export(self, session: int) -> bytes:
        raise EngineError("The transformers engine does not move sessions.")

    def restore(self, session: int, state: bytes) -> None:
        raise EngineError("The transformers engine does not move sessions.")

    def unload(self) -> None:
        self._cache.clear()
        del self._model
        gc.collect()  # modules and their hooks refer to each other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _split(rows: Output, counts: list[int]) -> list[Output]:
    return np.split(rows, list(accumulate(counts[:-1])))


def best_device() -> torch.device:
    """A GPU of this machine, or else its CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def needed_tensors(config: Mapping[str, Any], names: Iterable[str], span: Span) -> list[str]:
    """The tensors of a checkpoint (among all `names`) that an engine for `span` reads. This needs no weights.

    Raises the same errors as TransformersEngine does for the model and the span.
    """
    return SpanModel(config, span, torch.device("meta"), None).weights.needed(names)
