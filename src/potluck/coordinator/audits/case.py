"""One audit from the evidence to its outcome: who computes the rows next, and whom the answers convict. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from potluck.coordinator.relay.evidence import Answer, Evidence


@dataclass(frozen=True, slots=True)
class Holder:
    """A node that can compute a stage. key: the same whenever it comes back. twin: its mark.

    trusted: the coordinator's owner vouches for it.
    """

    node: str
    key: bytes
    twin: str = ""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """The audited node computed what it should."""


@dataclass(frozen=True, slots=True)
class Slipped:
    """This node was wrong once, and is right when it computes the same again, or cannot be asked again."""

    holder: Holder


@dataclass(frozen=True, slots=True)
class Convicted:
    """This node was wrong twice about the same rows."""

    holder: Holder


@dataclass(frozen=True, slots=True)
class Undecided:
    """These nodes contradict each other, and nobody can tell which one is wrong."""

    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Nobody could compute the rows."""


Outcome = Passed | Slipped | Convicted | Undecided | Dropped

Agree = Callable[[Evidence, Answer, Answer, bool], bool]
"""Whether two answers to the evidence's questions can both be right. The last argument says that they are of twins."""


@dataclass(slots=True)
class _Claim:
    holder: Holder
    answer: Answer


@dataclass(slots=True, eq=False)
class Case:
    """An audit. The audited node's claim is what it passed on. Another node computes the same; if they disagree, a
    third does.

    The node that the third one contradicts computes its rows again. A trusted node stands in for a third.
    While at most one of three lies, nobody else is convicted, because it takes two that agree against one.
    """

    evidence: Evidence
    audited: Holder
    agree: Agree
    claims: list[_Claim] = field(init=False)
    suspect: Holder | None = None
    _tried: set[bytes] = field(default_factory=set)
    _truth: _Claim | None = None

    def __post_init__(self) -> None:
        self.claims = [_Claim(self.audited, self.evidence.gave)]
        self._tried.add(self.audited.key)

    def choose(self, holders: Iterable[Holder], chance: Callable[[], float]) -> Holder | None:
        """The node to compute next: the suspect again, or else a trusted node before twins before others; None if there
        is none.
        """
        if self.suspect is not None:
            return next((holder for holder in holders if holder.key == self.suspect.key), None)
        free = [holder for holder in holders if holder.key not in self._tried]
        best = min((self._rank(holder) for holder in free), default=0)
        equals = [holder for holder in free if self._rank(holder) == best]
        return equals[int(chance() * len(equals))] if equals else None

    def _rank(self, holder: Holder) -> int:
        return 0 if holder.trusted else 1 if _are_twins(holder, self.audited) else 2

    def failed(self, holder: Holder) -> Outcome | None:
        """Note that the node could not compute the rows, or is gone, so that another one has to. A suspect gets no
        substitute.
        """
        self._tried.add(holder.key)
        return None if self.suspect is None else Slipped(self.suspect)

    def nobody(self) -> Outcome | None:
        """Note that there is nobody to ask. None means that the word of a trusted node counts, and the case goes on."""
        if self.suspect is not None:
            return Slipped(self.suspect)
        if len(self.claims) == 1:
            return Dropped()
        one, other = self.claims
        if one.holder.trusted == other.holder.trusted:
            return Undecided((one.holder, other.holder))
        self._accuse(*((other, one) if one.holder.trusted else (one, other)))
        return None

    def answered(self, holder: Holder, answer: Answer) -> Outcome | None:
        """Take an answer. None means that one more computation is needed."""
        claim = _Claim(holder, answer)
        if self._truth is not None:
            return Slipped(holder) if self._agree(claim, self._truth) else Convicted(holder)
        self._tried.add(holder.key)
        self.claims.append(claim)
        if len(self.claims) == 2:
            return Passed() if self._agree(*self.claims) else None
        one, other = self.claims[:2]
        with_one, with_other = self._agree(claim, one), self._agree(claim, other)
        if with_one == with_other:
            return Undecided(tuple(claim.holder for claim in self.claims[: 2 if with_one else 3]))
        self._accuse(*((other, claim) if with_one else (one, claim)))
        return None

    def _accuse(self, wrong: _Claim, right: _Claim) -> None:
        self.suspect, self._truth = wrong.holder, right

    def _agree(self, one: _Claim, other: _Claim) -> bool:
        return self.agree(self.evidence, one.answer, other.answer, _are_twins(one.holder, other.holder))


def _are_twins(one: Holder, other: Holder) -> bool:
    return bool(one.twin) and one.twin == other.twin
