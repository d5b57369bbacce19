"""Finds out from the hops of a trace how many guesses were right, and what that was worth. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from msgspec import Struct

from potluck.coordinator.relay.trace import Hop, Kind, ended_steps


class Foresight(Struct, frozen=True):
    """The guesses of some sessions. fed: those of which it is known what became. right: of these, the tokens that came.

    tokens: those that came by one pass, which is the step of a token that was known, and by the guesses behind it.
    pass_s: the mean time of a pass. rows: those that a stage computed for a token. All three are null if no pass ended.
    """

    fed: int
    right: int
    tokens: float | None
    pass_s: float | None
    rows: float | None

    @property
    def sentence(self) -> str:
        told = were_right(self.right, self.fed)
        if self.tokens is None or self.pass_s is None or self.rows is None:
            return f"{told}."
        return f"{told}: {self.tokens:.1f} tokens a pass of {1000 * self.pass_s:.0f} ms, {self.rows:.1f} rows a token."


def foresight(hops: Sequence[Hop]) -> Foresight | None:
    """None if there were no guesses. Sessions that had none are left out."""
    guessing = {hop.session for hop in hops if hop.guessed}
    own = [hop for hop in hops if hop.session in guessing]
    steps = ended_steps(own)
    right, void = (sum(step.kind is kind for step in steps) for kind in (Kind.GUESS, Kind.VOID))
    if not right + void:
        return None
    passes = [step.ended - step.sent for step in steps if step.kind is Kind.TOKEN]
    if not passes:
        return Foresight(right + void, right, None, None, None)
    tokens = len(passes) + right
    rows = sum(1 / hop.stages for hop in own if hop.rows == 1 and not hop.void)
    return Foresight(right + void, right, tokens / len(passes), fmean(passes), rows / tokens)


def were_right(right: int, fed: int) -> str:
    """The share of the right guesses, as the beginning of a sentence."""
    return f"{100 * right / fed:.0f} % of {fed:,} {'guess was' if fed == 1 else 'guesses were'} right"
