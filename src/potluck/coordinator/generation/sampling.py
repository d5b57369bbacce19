"""Sampling: candidates of one row in, one token out. Pure except for the sampler's own counts and random numbers.

Candidates come as log-probabilities. They serve as logits, because the softmax does not change when all logits move
together. The order of the steps is that of vLLM: logit bias, repetition penalty, frequency and presence penalties,
temperature, top_k, top_p, min_p. The distribution is always that of at most MAX_CANDIDATES tokens, as with top_k = 256.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable
from copy import copy
from functools import cached_property

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from potluck.coordinator.relay.candidates import Candidates
from potluck.types import MAX_CANDIDATES
from potluck.wire.rows import Ids

Floats = NDArray[np.float64]

_COLD = 1e-5
"""Temperatures below this are greedy, because the division would overflow before it could change the choice."""


class Bias(dict[int, float]):
    """The addends of logits by token id, not changed once it is made: all answers to a request share its arrays."""

    @cached_property
    def lifted(self) -> tuple[int, ...]:
        """The ids of the tokens that it raises, ascending."""
        return tuple(self._ids[self._addends > 0].tolist())

    def of(self, ids: Ids) -> Floats:
        """The addends of these tokens."""
        if not self:
            return np.zeros(len(ids))
        places = np.minimum(np.searchsorted(self._ids, ids), len(self) - 1)
        addends: Floats = np.where(self._ids[places] == ids, self._addends[places], 0.0)
        return addends

    @cached_property
    def _ids(self) -> Ids:
        return np.array(sorted(self), np.int32)

    @cached_property
    def _addends(self) -> Floats:
        return np.array([self[token] for token in sorted(self)], np.float64)


class SamplingParams(Struct, frozen=True):
    """The parameters that a request may set; `http.requests` declares their bounds.

    temperature: 0 is greedy. top_k: 0 is off. top_p = 1 and min_p = 0 are off.
    frequency_penalty, presence_penalty: over generated tokens; repetition_penalty: over the prompt's too.
    logit_bias: token id to an addend of its logit, -100 (banned) … 100 (forced).
    seed: equal seeds, parameters and candidates give equal tokens; None draws a fresh one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature < _COLD

    @property
    def penalised(self) -> bool:
        return bool(self.frequency_penalty or self.presence_penalty) or self.repetition_penalty != 1

    @property
    def raises_seen(self) -> bool:
        """Whether the penalties may raise a token that was seen before, rather than only push it down."""
        return self.frequency_penalty < 0 or self.presence_penalty < 0 or self.repetition_penalty < 1

    def candidates_needed(self, top_logprobs: int = 0, forbidden: int = 0) -> int:
        """How many of the most likely tokens the last stage must return, 1 … MAX_CANDIDATES.

        top_logprobs: how many alternatives the client wants to be shown. forbidden: how many may not be sampled.
        """
        if self.penalised or self.logit_bias:
            needed = MAX_CANDIDATES  # any of them may have to give way
        elif self.greedy:
            needed = 1
        else:
            needed = self.top_k or MAX_CANDIDATES
        return min(max(needed + forbidden, top_logprobs), MAX_CANDIDATES)


class Lifted:
    """The tokens that bias or penalties may raise, so that the last stage is asked for them, however unlikely they are.

    A token that is only pushed down need not be asked for, because it cannot move from outside the likeliest into them.
    `accept` every token of the answer.
    """

    def __init__(self, params: SamplingParams, prompt: Iterable[int]) -> None:
        self._raises_seen = params.raises_seen
        told = prompt if params.repetition_penalty < 1 else ()
        self._ids = sorted({*_bias_of(params).lifted, *told})

    @property
    def ids(self) -> tuple[int, ...]:
        """Their ids, ascending."""
        return tuple(self._ids)

    def accept(self, token: int) -> None:
        if self._raises_seen:
            place = bisect_left(self._ids, token)
            if self._ids[place : place + 1] != [token]:
                self._ids.insert(place, token)

    def copy(self) -> Lifted:
        copied = copy(self)
        copied._ids = list(self._ids)
        return copied


class Sampler:
    """Chooses the tokens of one session. `accept` every token that joins it, whether sampled here or not."""

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int]) -> None:
        self._params = params
        self._bias = _bias_of(params)
        told = prompt_ids if params.repetition_penalty != 1 else ()
        self._prompt = np.unique(np.fromiter(told, np.int32))
        self._counts: Counter[int] = Counter()
        # A client's seed may be negative, PCG64's may not.
        self._random = np.random.Generator(np.random.PCG64(None if params.seed is None else params.seed % 2**64))

    def accept(self, token: int) -> None:
        self._counts[token] += 1

    def skip(self) -> None:
        """Draw what `sample` would have drawn for a token that is known already."""
        if not self._params.greedy:
            self._random.random()

    def sample(self, candidates: Candidates, forbidden: Collection[int] = ()) -> int:
        """One of the candidates' ids, but none of the forbidden. Draws one random number unless greedy."""
        if forbidden:
            candidates = candidates.without(forbidden)
        ids, logits = self._rank(candidates)
        if self._params.greedy:
            return int(ids[0])
        chances = _softmax(logits[: self._params.top_k or MAX_CANDIDATES] / self._params.temperature)
        return int(ids[self._draw(chances[: self._kept(chances)])])

    def _rank(self, candidates: Candidates) -> tuple[Ids, Floats]:
        """The ids and their logits after bias and penalties, the highest logit first, the lower id first in a tie."""
        params = self._params
        ids, logits = candidates.ids, candidates.logprobs.astype(np.float64)
        if not params.logit_bias and not params.penalised:
            return ids, logits
        logits += self._bias.of(ids)
        logits = self._penalise(ids, logits + candidates.normalizer)
        order = np.lexsort((ids, -logits))
        return ids[order], logits[order]

    def _penalise(self, ids: Ids, logits: Floats) -> Floats:
        params = self._params
        counts = np.array([self._counts[token] for token in ids.tolist()])
        if params.repetition_penalty != 1:
            seen = (counts > 0) | np.isin(ids, self._prompt)
            factor = np.where(logits > 0, 1 / params.repetition_penalty, params.repetition_penalty)
            logits = np.where(seen, logits * factor, logits)
        return logits - params.frequency_penalty * counts - params.presence_penalty * (counts > 0)

    def _kept(self, chances: Floats) -> int:
        """How many of the likeliest survive top_p and min_p: always the first, and none after one that fails."""
        kept = len(chances)
        if self._params.top_p < 1:
            before = np.cumsum(chances) - chances
            kept = int(np.count_nonzero(before < self._params.top_p))
        likely = int(np.count_nonzero(chances >= self._params.min_p * chances[0]))
        return max(1, min(kept, likely))

    def _draw(self, chances: Floats) -> int:
        """An index drawn in proportion to the chances."""
        bounds = np.cumsum(chances)
        index = np.searchsorted(bounds, self._random.random() * bounds[-1], side="right")
        return min(int(index), len(chances) - 1)  # the product may round up to the last bound


def _bias_of(params: SamplingParams) -> Bias:
    return params.logit_bias if isinstance(params.logit_bias, Bias) else Bias(params.logit_bias)


def _softmax(logits: Floats) -> Floats:
    """The softmax of descending logits."""
    weights = np.exp(logits - logits[0])
    chances: Floats = weights / weights.sum()
    return chances
