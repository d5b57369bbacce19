"""Knows what the next token of an answer needs, and looks ahead: what the tokens after a guess would need."""

from __future__ import annotations

from collections.abc import Collection
from copy import copy

from potluck.coordinator.generation.job import Job
from potluck.coordinator.generation.sampling import Lifted
from potluck.coordinator.relay.candidates import Candidates
from potluck.errors import RequestError
from potluck.types import MAX_CANDIDATES
from potluck.wire.rows import Ids

_FEW = 256
"""Allowed tokens that are asked for by name at once. If a grammar allows more, some of them are usually among the
likeliest tokens, and the row is asked for again if none is."""


class Outlook:
    """The needs of an answer's next token. `accept` every token of it. written: how many were.

    ends: the tokens that end the answer. own_ends: those that end it by the model's own will.
    """

    def __init__(self, job: Job, own_ends: Collection[int]) -> None:
        self.written = 0
        self.ends = (frozenset() if job.ignore_eos else frozenset(own_ends)) | job.stop_ids
        self._late_ends = frozenset(own_ends) | job.stop_ids
        self._job = job
        self._lifted = Lifted(job.params, job.prompt)
        self._constraint = job.grammar.start() if job.grammar else None
        self.allowed: Ids | None = self._constraint.allowed() if self._constraint else None
        """The tokens that may come next, ascending; None if all may."""

    @property
    def forbidden(self) -> frozenset[int]:
        """The tokens that may not come next, because they would end the answer too early."""
        return self._late_ends if self.written < self._job.min_tokens else frozenset()

    @property
    def top(self) -> int:
        """The number of candidates that the next token needs."""
        if self.allowed is not None:
            return MAX_CANDIDATES
        return self._job.params.candidates_needed(self._job.logprobs or 0, len(self.forbidden))

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens that must be among the candidates, however unlikely they are."""
        if self.allowed is not None and len(self.allowed) <= _FEW:
            return tuple(sorted({*self._lifted.ids, *self.allowed.tolist()}))
        return self._lifted.ids

    @property
    def all_ids(self) -> tuple[int, ...]:
        """All tokens that may come next, if not all of them may."""
        return () if self.allowed is None else tuple(self.allowed.tolist())

    def usable(self, candidates: Candidates) -> Candidates:
        """The candidates that may come next."""
        return candidates if self.allowed is None else candidates.only(self.allowed)

    def accept(self, token: int) -> None:
        self.written += 1
        self._lifted.accept(token)
        if self._constraint is not None:
            self._constraint.accept(token)
            if not self._constraint.is_complete:
                self.allowed = self._constraint.allowed()

    @property
    def is_complete(self) -> bool:
        """Whether the grammar lets nothing follow."""
        return self._constraint is not None and self._constraint.is_complete

    def after(self, guess: int) -> Outlook | None:
        """The outlook if this token came next, which may; None if nothing would follow, or nobody can tell in time."""
        if guess in self.ends or guess in self.forbidden or self.written + 1 >= self._job.max_tokens:
            return None
        ahead = copy(self)
        ahead._lifted = self._lifted.copy()
        ahead._constraint = self._constraint.copy() if self._constraint is not None else None
        try:
            ahead.accept(guess)
        except RequestError:  # the token may never come; if it does, the writer says what is wrong
            return None
        return None if ahead.is_complete else ahead
