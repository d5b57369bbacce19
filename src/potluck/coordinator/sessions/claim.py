"""The account and the class of a request, and how much that account may take. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from potluck.types import Priority


class Rank(IntEnum):
    """The classes of requests, in the order in which they are served."""

    INTERACTIVE = 0
    BATCH = 1
    ANONYMOUS = 2

    @classmethod
    def of(cls, priority: Priority, *, anonymous: bool = False) -> Rank:
        """The rank of a request. Callers without an account come last, whatever they ask for."""
        if anonymous:
            return cls.ANONYMOUS
        return cls.BATCH if priority is Priority.BATCH else cls.INTERACTIVE

    @property
    def word(self) -> str:
        """The rank in a word for people."""
        return self.name.lower()


_MOST_WEIGHT = 4.0


def weight_of(credits: float) -> float:
    """An account's weight, from the layer-tokens that its nodes have computed and that it has not spent.

    It is 1 without any, 2 for nine million, which is an hour or two of ten layers on a laptop, and 4 at most. It grows
    with the logarithm, so that giving something counts at once. It is bounded, so that those who cannot give still get
    a fifth beside one who gave most.
    """
    return min(1.0 + math.log10(1.0 + max(0.0, credits) / 1e6), _MOST_WEIGHT)


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's claim. account: its public name. weight: how much more work it gets than an account of weight 1."""

    account: str = ""
    rank: Rank = Rank.INTERACTIVE
    weight: float = 1.0


EVERYONE = Claim()
"""The claim of all requests of a swarm that has no accounts."""
