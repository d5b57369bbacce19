"""The likely next tokens of a row, as the last stage sends them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from potluck.errors import WireError
from potluck.wire.rows import Ids


@dataclass(frozen=True)
class Candidates:
    """The likely next tokens of one row, sorted by log-probability, the highest first; the lower id first in a tie.

    ids: int32 [m]. logprobs: float32 [m], of the whole vocabulary's distribution at temperature 1.
    normalizer: the row's log-sum-exp, so that `logprobs + normalizer` are the model's own logits. Only the repetition
    penalty, which divides positive logits and multiplies negative ones, distinguishes them from log-probabilities.
    """

    ids: Ids
    logprobs: NDArray[np.float32]
    normalizer: float = 0.0

    @classmethod
    def checked(cls, ids: Ids, logprobs: NDArray[np.float32], vocabulary: int, normalizer: float = 0.0) -> Candidates:
        """The candidates that a node sent in any order, sorted. Raises WireError when they cannot be a row of such a
        vocabulary.
        """
        if not ids.size or ids.shape != logprobs.shape or ids.ndim != 1:
            raise WireError(f"{ids.size} candidates came with {logprobs.size} log-probabilities.")
        known = ids.tolist()  # often a single one, for which Python is quicker
        if not 0 <= min(known) <= max(known) < vocabulary or len(set(known)) != len(known):
            raise WireError(f"The candidates are not different tokens of the vocabulary of {vocabulary}.")
        # -inf is a token that cannot come; 1e-3 is room for the rounding of a log-softmax in float32.
        best = logprobs[0] if len(known) == 1 else logprobs.max()
        if not -math.inf < best < 1e-3 or not math.isfinite(normalizer):
            raise WireError("The candidates' scores are not log-probabilities.")
        if len(known) == 1:
            return cls(ids, logprobs, normalizer)
        order = np.lexsort((ids, -logprobs))
        return cls(ids[order], logprobs[order], normalizer)

    def logprob(self, token: int) -> float:
        """The log-probability of one of the candidates. Raises KeyError when it is not among them."""
        found = np.flatnonzero(self.ids == token)
        if not found.size:
            raise KeyError(token)
        return float(self.logprobs[found[0]])

    def best(self, count: int) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens, each with its log-probability."""
        return tuple(zip(self.ids[:count].tolist(), self.logprobs[:count].tolist(), strict=True))

    def without(self, forbidden: Collection[int]) -> Candidates:
        """The candidates without these. Raises WireError when none is left, because more were asked for than are
        forbidden.
        """
        allowed = ~np.isin(self.ids, list(forbidden))
        if not allowed.any():
            raise WireError("All candidates for the next token would end the text too early.")
        return Candidates(self.ids[allowed], self.logprobs[allowed], self.normalizer)

    def only(self, allowed: Ids) -> Candidates:
        """The candidates that are allowed, which may be none."""
        kept = np.isin(self.ids, allowed)
        return Candidates(self.ids[kept], self.logprobs[kept], self.normalizer)

    def __len__(self) -> int:
        return len(self.ids)
