"""A step that a node has received, and how much of it has run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from potluck.engine.base import Output, Rows, Segment, Tokens
from potluck.types import SMALL_ROWS
from potluck.wire.messages import Step


@dataclass(slots=True, eq=False)
class StepPart:
    """A step and its input. A long one runs in pieces: `done` of its rows have run, with these outputs.

    begun: whether a piece of it runs, or has run.
    """

    step: Step
    data: Tokens | Rows
    arrived: float
    begun: bool = False
    done: int = 0
    outputs: list[Output] = field(default_factory=list)
    compute_s: float = 0.0

    @property
    def small(self) -> bool:
        return self.step.rows <= SMALL_ROWS

    @property
    def left(self) -> int:
        return self.step.rows - self.done

    def overwrites(self, waiting: StepPart) -> bool:
        """Whether this later step makes the node forget all that one that still waits would compute.

        Then it holds guesses that were wrong, whose answer nobody awaits any more.
        """
        step, other = self.step, waiting.step
        return step.session == other.session and step.position <= other.position and not waiting.begun

    def segment(self, rows: int) -> Segment:
        """The next rows of this number, and the candidates that are wanted for them."""
        end = self.done + rows
        first_wanted = max(self.step.rows - len(self.step.asks), self.done)
        return Segment(
            self.step.session,
            self.step.position + self.done,
            self.data[self.done : end],
            self.step.last,
            max(0, end - first_wanted),
        )

    def output(self) -> Output:
        return self.outputs[0] if len(self.outputs) == 1 else np.concatenate(self.outputs)


Batch = list[tuple[StepPart, int]]
"""Steps, and how many rows of each to run."""
