"""The part of an answer that is given, because it was made elsewhere: its deltas, and what nodes must read of it."""

from __future__ import annotations

from potluck.coordinator.generation.job import Delta, Job
from potluck.coordinator.generation.outlook import Outlook
from potluck.coordinator.generation.writer import Writer, scored
from potluck.coordinator.relay.candidates import Candidates


class Begun:
    """What a job gives of its answer, written once more. writer: has written nothing yet.

    deltas: what the given tokens add to the answer. ended: whether they are all of it.
    """

    def __init__(self, job: Job, writer: Writer) -> None:
        self._job = job
        self.deltas: list[Delta] = []
        self.ended = False
        for token in job.given:
            self.deltas.append(writer.repeat(token))
            if self.deltas[-1].finish is not None:
                self.ended = True
                break

    @property
    def _tokens(self) -> tuple[int, ...]:
        return self._job.given[: len(self.deltas)]

    @property
    def fed(self) -> list[int]:
        """The tokens that nodes read first: the prompt, and what is given. An answer's last token is never fed."""
        return [*self._job.prompt, *(self._tokens[:-1] if self.ended else self._tokens)]

    def asks(self, outlook: Outlook) -> list[tuple[int, ...]]:
        """The tokens for which the last rows that are fed must have candidates. outlook: what comes after it all."""
        job = self._job
        told = job.prompt[1:] if job.echo else []
        known = self._tokens if job.echo or job.logprobs is not None else ()
        return [*((token,) for token in (*told, *known)), *([] if self.ended else [outlook.ids])]

    def score(self, rows: list[Candidates]) -> None:
        """Add the log-probabilities that were asked for, of which these are the rows."""
        if self._job.logprobs is None:
            return
        end = len(rows) - (not self.ended)
        for delta, token, row in zip(self.deltas, self._tokens, rows[end - len(self.deltas) : end], strict=True):
            delta.tokens = [scored(token, row, self._job.logprobs)]
