"""What a small model was told of an answer, and what it has guessed. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from potluck.wire.guessing import Follow, Guessed

_MOST_BEYOND = 8
"""The most guesses that the small model makes beyond the one asked for, so that the next ones are there when they are.

It makes no more of them than there are guesses under way: where these are given up again and again, few are in vain.
"""


class Trail:
    """The tokens of one answer as the small model has them. answer: its number.

    context: the most tokens of an answer that is guessed. vocabulary: the small model has the ids below this.
    """

    def __init__(self, answer: int, context: int, vocabulary: int) -> None:
        self._answer = answer
        self._context = context
        self._vocabulary = vocabulary
        self._is_foreign = False
        self.forget()

    def forget(self) -> None:
        """Begin anew, because the small model knows nothing of the answer any more."""
        self._tokens: list[int] = []
        """What it was told, and behind that the guesses that have come from it."""
        self._told = 0
        """How many of them it was told."""
        self._sure = 0
        """How many of the first tokens have been compared, and are no guesses."""
        self._number = 0
        self._until = 0

    def can_follow(self, tokens: Sequence[int], ahead: int) -> bool:
        """Whether the small model can read these tokens, and so guess the next one. ahead: as `Guesser.guess` has it.

        An answer with a token that it does not have is never guessed again.
        """
        if self._is_foreign or len(tokens) >= self._context:
            return False
        foreign = next((place for place in range(self._sure, len(tokens)) if tokens[place] >= self._vocabulary), None)
        self._is_foreign = foreign is not None and foreign < len(tokens) - ahead
        return foreign is None

    def follow(self, tokens: Sequence[int], ahead: int) -> Follow | None:
        """What must be said to have a guess of the token behind these; None if it was said before."""
        same = self._agreeing(tokens)
        self._sure = max(0, len(tokens) - ahead)
        fresh, beyond = list(tokens[same:]), min(ahead, _MOST_BEYOND)
        if fresh or same < self._told:
            self._tokens[same:] = fresh
            self._told = len(tokens)
            self._number += 1
        elif self._until >= min(len(tokens) + 1 + beyond // 2, self._context):
            return None
        self._until = min(len(tokens) + 1 + beyond, self._context)
        return Follow(self._answer, self._number, len(self._tokens) - len(fresh), fresh, self._until)

    def _agreeing(self, tokens: Sequence[int]) -> int:
        """How many of these tokens the small model has."""
        end = min(len(tokens), len(self._tokens))
        start = min(self._sure, end)
        if self._tokens[start:end] == list(tokens[start:end]):
            return end
        return next(place for place in range(start, end) if self._tokens[place] != tokens[place])

    def take(self, guessed: Guessed) -> None:
        """Take in a guess, unless the answer has taken another turn since it was made."""
        if guessed.number == self._number:
            self._tokens.append(guessed.token)

    def guess(self, place: int) -> int | None:
        """The guess for this place behind the tokens that it was told, if it has come."""
        return self._tokens[place] if place < len(self._tokens) else None
