"""Makes an answer, one token at a time, from the candidates that the model gives for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from potluck.coordinator.generation.detokenizer import Detokenizer
from potluck.coordinator.generation.job import Delta, Job, Scored
from potluck.coordinator.generation.sampling import Sampler
from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.swarm.tally import Tally, TokenKind
from potluck.coordinator.text.tokenizer import Tokenizer
from potluck.types import MAX_CANDIDATES

_LEAST_LOGPROB = -9999.0
"""OpenAI's number for "impossible", because JSON has no infinity."""


_FEW = 256
"""Allowed tokens that are asked for by name at once. If a grammar allows more, some of them are usually among the
likeliest tokens, and the row is asked for again if none is."""


class _LateDetokenizer(Detokenizer):
    """A detokenizer in which stop strings count only after this many tokens."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], shown: Collection[int], least: int) -> None:
        super().__init__(tokenizer, stops, shown)
        self._early = least

    def push(self, token: int) -> str:
        self._early -= 1
        return super().push(token)

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        return None if self._early > 0 else super()._first_stop(text)


class Writer:
    """Makes the answer, one token at a time, from the model's candidates. last: the latest token."""

    def __init__(self, tokenizer: Tokenizer, job: Job, tally: Tally) -> None:
        self.last = -1
        self._tally = tally
        self._job = job
        self._sampler = Sampler(job.params, job.prompt)
        self._detokenizer = _LateDetokenizer(tokenizer, job.stops, job.shown, job.min_tokens)
        self._ends = (frozenset() if job.ignore_eos else tokenizer.stop_ids) | job.stop_ids
        self._late_ends = tokenizer.stop_ids | job.stop_ids
        self._is_over = job.watch() if job.watch else None
        self._written = 0
        self._constraint = job.grammar.start() if job.grammar else None
        self._allowed = self._constraint.allowed() if self._constraint else None

    @property
    def _forbidden(self) -> frozenset[int]:
        return self._late_ends if self._written < self._job.min_tokens else frozenset()

    @property
    def top(self) -> int:
        """The number of candidates that the next token needs."""
        if self._allowed is not None:
            return MAX_CANDIDATES
        return self._job.params.candidates_needed(self._job.logprobs or 0, len(self._forbidden))

    def ids_needed(self) -> tuple[int, ...]:
        """The tokens that must be among the candidates, however unlikely they are."""
        lifted = self._sampler.ids_needed()
        if self._allowed is not None and len(self._allowed) <= _FEW:
            return tuple(sorted({*lifted, *self._allowed.tolist()}))
        return lifted

    def can_use(self, candidates: Candidates) -> bool:
        """Whether one of the candidates may come next."""
        return self._allowed is None or len(candidates.only(self._allowed)) > 0

    def ids_allowed(self) -> tuple[int, ...]:
        """All tokens that may come next, if not all of them may."""
        return () if self._allowed is None else tuple(self._allowed.tolist())

    def write(self, candidates: Candidates) -> Delta:
        """Write the next token. After one with `finish` there is none."""
        usable = candidates if self._allowed is None else candidates.only(self._allowed)
        token = self.last = self._sampler.sample(usable, self._forbidden)
        self._tally.tokens[TokenKind.GENERATED] += 1
        tokens = [_scored(token, candidates, self._job.logprobs)]
        if token in self._ends:
            return Delta(self._detokenizer.finish(), tokens, finish="stop")
        self._sampler.accept(token)
        self._written += 1
        text = self._detokenizer.push(token)
        if self._detokenizer.stopped is not None or self._ends_with(text):
            return Delta(text, tokens, finish="stop", stopped=self._detokenizer.stopped)
        if self._is_complete_with(token):
            return Delta(text + self._detokenizer.finish(), tokens, finish="stop")
        if self._written == self._job.max_tokens:
            return Delta(text + self._detokenizer.finish(), tokens, finish="length")
        return Delta(text, tokens)

    def _ends_with(self, text: str) -> bool:
        """Whether whoever watches the answer says that it is over after this text."""
        is_over = self._is_over is not None and self._is_over(text)
        return is_over and self._written >= self._job.min_tokens

    def _is_complete_with(self, token: int) -> bool:
        """Whether the grammar lets nothing follow this token."""
        if self._constraint is None:
            return False
        self._constraint.accept(token)
        if self._constraint.is_complete:
            return True
        self._allowed = self._constraint.allowed()
        return False


def score_prompt(job: Job, rows: list[Candidates]) -> list[Scored]:
    """The log-probability of each token of the prompt given those before it. The first token has none."""
    pairs = zip(job.prompt[1:], rows, strict=True)
    return [Scored(job.prompt[0], None), *(_scored(token, row, job.logprobs) for token, row in pairs)]


def _scored(token: int, candidates: Candidates, logprobs: int | None) -> Scored:
    if logprobs is None:
        return Scored(token, None)
    top = tuple((other, max(logprob, _LEAST_LOGPROB)) for other, logprob in candidates.best(logprobs))
    return Scored(token, max(candidates.logprob(token), _LEAST_LOGPROB), top)
