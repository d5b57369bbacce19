"""Which waiting steps to run in the next forward. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SMALL_ROWS = 16
"""Steps up to this size are tokens being generated: they go first, for someone watches them appear."""


class Waiting(NamedTuple):
    """A step in the queue, as batching sees it."""

    session: int
    rows: int
    last: int


def choose_batch(queue: Sequence[Waiting], limit: int) -> list[int]:
    """Indices into `queue` (oldest first) of the steps to run together: at most `limit` rows, all of one `last`.

    Of each session only the oldest step may run. Small steps come first, so that prompts do not stop the
    answers of others; but the oldest step of all always runs, so that nothing waits for ever.
    """
    oldest: dict[int, int] = {}
    for index, step in enumerate(queue):
        oldest.setdefault(step.session, index)
    last = queue[0].last
    ready = [index for index in oldest.values() if queue[index].last == last]
    ready.sort(key=lambda index: (index != 0, queue[index].rows > SMALL_ROWS, index))
    chosen, rows = [], 0
    for index in ready:
        if rows + queue[index].rows <= limit:
            chosen.append(index)
            rows += queue[index].rows
    return chosen
