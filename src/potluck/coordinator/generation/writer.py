"""Makes an answer, one token at a time, from the candidates that the model gives for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from potluck.coordinator.generation.detokenizer import Detokenizer
from potluck.coordinator.generation.job import Delta, Job, Scored
from potluck.coordinator.generation.outlook import Outlook
from potluck.coordinator.generation.sampling import Sampler
from potluck.coordinator.relay.candidates import Candidates
from potluck.coordinator.swarm.tally import Tally, TokenKind
from potluck.coordinator.text.tokenizer import Tokenizer

_LEAST_LOGPROB = -9999.0
"""OpenAI's number for "impossible", because JSON has no infinity."""


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
    """Makes the answer, one token at a time, from the model's candidates. last: the latest token.

    outlook: what the next token needs.
    """

    def __init__(self, tokenizer: Tokenizer, job: Job, tally: Tally) -> None:
        self.last = -1
        self._tally = tally
        self._job = job
        self._sampler = Sampler(job.params, job.prompt)
        self._detokenizer = _LateDetokenizer(tokenizer, job.stops, job.shown, job.min_tokens)
        self._is_over = job.watch() if job.watch else None
        self.outlook = Outlook(job, tokenizer.stop_ids)

    def write(self, candidates: Candidates) -> Delta:
        """Write the next token. After one with `finish` there is none."""
        token = self._sampler.sample(self.outlook.usable(candidates), self.outlook.forbidden)
        self._tally.tokens[TokenKind.GENERATED] += 1
        return self._written(token, [scored(token, candidates, self._job.logprobs)])

    def repeat(self, token: int) -> Delta:
        """Write a token that is given, as it was written before. Its log-probability is added later."""
        self._sampler.skip()
        return self._written(token, [Scored(token, None)])

    def _written(self, token: int, tokens: list[Scored]) -> Delta:
        self.last = token
        if token in self.outlook.ends:
            return Delta(self._detokenizer.finish(), tokens, finish="stop")
        self._sampler.accept(token)
        self.outlook.accept(token)
        text = self._detokenizer.push(token)
        if self._detokenizer.stopped is not None or self._ends_with(text):
            return Delta(text, tokens, finish="stop", stopped=self._detokenizer.stopped)
        if self.outlook.is_complete:
            return Delta(text + self._detokenizer.finish(), tokens, finish="stop")
        if self.outlook.written == self._job.max_tokens:
            return Delta(text + self._detokenizer.finish(), tokens, finish="length")
        return Delta(text, tokens)

    def _ends_with(self, text: str) -> bool:
        """Whether whoever watches the answer says that it is over after this text."""
        is_over = self._is_over is not None and self._is_over(text)
        return is_over and self.outlook.written >= self._job.min_tokens


def score_prompt(job: Job, rows: list[Candidates]) -> list[Scored]:
    """The log-probability of each token of the prompt given those before it. The first token has none."""
    pairs = zip(job.prompt[1:], rows, strict=False)  # the other rows are the answer's
    return [Scored(job.prompt[0], None), *(scored(token, row, job.logprobs) for token, row in pairs)]


def scored(token: int, candidates: Candidates, logprobs: int | None) -> Scored:
    """The token with so many of the likeliest ones; without any log-probability for None."""
    if logprobs is None:
        return Scored(token, None)
    top = tuple((other, max(logprob, _LEAST_LOGPROB)) for other, logprob in candidates.best(logprobs))
    return Scored(token, max(candidates.logprob(token), _LEAST_LOGPROB), top)
