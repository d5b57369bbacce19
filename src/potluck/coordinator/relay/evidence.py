"""The evidence of a stage's work for an audit, and the questions that an auditor gets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from potluck.types import MAX_STEP_ROWS, Stage

EVIDENCE_BYTES = 32 << 20
"""The bytes of one stage of one session up to which a record grows."""

_STEP_BYTES = 4 << 20
"""The bytes of an auditor's answers to one question. Where a grammar allows few tokens, thousands are asked for by
name."""

Answer = tuple[bytes | None, ...]
"""The output of a stage position by position: a hidden row, or candidates; None if none are wanted."""


class Asked(NamedTuple):
    """The candidates that are wanted of one row: this number of the most likely ones, and these by name."""

    top: int
    ids: tuple[int, ...]


class Question(NamedTuple):
    """A step for an auditor: these rows from `position` on. asks: as in Step."""

    position: int
    rows: tuple[bytes, ...]
    top: int
    asks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The input of one stage and what it passed on, from position 0 of a session on.

    stages: of the session's route. asks: what the last stage was asked for each position; None means nothing.
    """

    session: int
    stage: Stage
    stages: int
    given: tuple[bytes, ...]
    gave: Answer
    asks: tuple[Asked | None, ...]

    @property
    def final(self) -> bool:
        """Whether the stage ends the model, so that it passed on candidates."""
        return any(self.asks)

    @property
    def nbytes(self) -> int:
        """The bytes of the rows."""
        return size_of(self.given) + size_of(self.gave)

    def questions(self) -> list[Question]:
        """The same computation in as few steps as possible, so that it costs an auditor much less than it cost the
        stage.

        The audited node's own candidates of each row are asked for by name, so that there is something to compare if
        the most likely ones are others.
        """
        return [self._question(start, end) for start, end in self._pieces()]

    def _pieces(self) -> list[tuple[int, int]]:
        """The pieces of at most MAX_STEP_ROWS positions and _STEP_BYTES of answers each, with one `top`."""
        pieces, start, top, size = list[tuple[int, int]](), 0, 0, 0
        for position, (asked, row) in enumerate(zip(self.asks, self.gave, strict=True)):
            changed, size = asked is not None and top not in (0, asked.top), size + len(row or b"")
            if changed or position - start == MAX_STEP_ROWS or (size > _STEP_BYTES and position > start):
                pieces.append((start, position))
                start, top, size = position, 0, len(row or b"")
            if asked is not None:
                top = asked.top
        return [*pieces, (start, len(self.given))]

    def _question(self, start: int, end: int) -> Question:
        wanted = [position for position in range(start, end) if self.asks[position] is not None]
        asks = [self._ids(position) for position in range(wanted[0], end)] if wanted else []
        top = next((asked.top for asked in self.asks[start:end] if asked is not None), 1)
        return Question(start, self.given[start:end], top, tuple(asks))

    def _ids(self, position: int) -> tuple[int, ...]:
        row = self.gave[position]
        if row is None:
            return ()
        return tuple(np.frombuffer(row, "<i4", (len(row) - 4) // 8, 4).tolist())


def size_of(rows: Sequence[bytes | None]) -> int:
    """The size of an answer in bytes."""
    return sum(len(row) for row in rows if row is not None)
