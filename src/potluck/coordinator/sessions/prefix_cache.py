"""The prefix cache: keeps ended sessions, with the nodes' keys and values, for requests that begin alike. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from potluck.types import ANY_NUMBER, Stage
from potluck.wire.rows import Ids

KEEP_S = 24 * 3600.0
"""Seconds that a session stays parked when nobody takes it over and nobody needs its room: the nodes are other people's
machines, and should not hold yesterday's chats."""

_MOST_USES = 8
"""The uses of a session that count, so that a chat that has ended is not kept for as long as it was."""

LEAST_PREFIX = 16
"""The tokens that a request must share with a parked session. Fewer are computed as fast as they are looked up."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A parked session. tokens: what the nodes of the route hold, but for those that have left since. steps: the number
    of its next step. since: when parked. uses: how many requests it has served.

    fed: the most positions that a node of the route may hold of it, if they are more than the tokens.
    account: whose it is. Nobody else takes it over, because how fast an answer begins would reveal what others have
    asked.
    """

    number: int
    route: tuple[Stage, ...]
    tokens: Ids
    steps: int
    since: float
    account: str = ""
    uses: int = 1
    fed: int = 0

    @property
    def positions(self) -> int:
        """The room that it takes on a node."""
        return max(self.fed, len(self.tokens))

    def is_on(self, nodes: Collection[str]) -> bool:
        """Whether its route runs through one of these nodes."""
        return any(stage.node in nodes for stage in self.route)


@dataclass(frozen=True, slots=True)
class Match:
    """A number of a request's first tokens that are also the first ones of this session."""

    session: Parked
    held: int


class PrefixCache:
    """The parked sessions, in the order in which they were parked.

    When room is needed, the session of the least worth gives way. Its worth grows with its uses, and shrinks with the
    number of sessions that its account has here, so that nobody drives out the others. It fades as others give way: the
    worth of the latest one that did is where newly parked ones begin. Length does not count, because a longer session
    both spares more and takes more room. Of equally worthy ones the oldest goes first.

    forgets: the number of its latest positions that a session can surely forget.
    """

    def __init__(self, *, forgets: int = ANY_NUMBER) -> None:
        self._forgets = forgets
        self._sessions: dict[int, Parked] = {}
        # Those of an account that begin alike, in the same order: no others can match.
        self._alike: dict[tuple[str, bytes], dict[int, Parked]] = {}
        self._begun: dict[int, float] = {}
        """The worth at which each session began."""
        self._faded = 0.0
        self._accounts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, number: int) -> bool:
        return number in self._sessions

    def park(self, session: Parked) -> bool:
        """Keep a session. False for one that is too short to be of use."""
        if len(session.tokens) < LEAST_PREFIX:
            return False
        self.drop(session.number)
        self._sessions[session.number] = session
        self._begun[session.number] = self._faded
        self._accounts[session.account] += 1
        self._alike.setdefault(_beginning(session.account, session.tokens), {})[session.number] = session
        return True

    def drop(self, number: int) -> bool:
        """Drop a session that is taken over, evicted or lost. False if it is not parked."""
        session = self._sessions.pop(number, None)
        if session is None:
            return False
        del self._begun[number]
        self._accounts[session.account] -= 1
        if not self._accounts[session.account]:
            del self._accounts[session.account]
        beginning = _beginning(session.account, session.tokens)
        del self._alike[beginning][number]
        if not self._alike[beginning]:
            del self._alike[beginning]
        return True

    def best(self, prompt: Ids, avoid: Collection[str] = (), account: str = "") -> Match | None:
        """The account's session that spares most of the prompt; of several, the one that loses least by it.

        avoid: nodes that its route must not run through.
        """
        matches = (
            Match(session, _common(prompt, session.tokens))
            for session in self._alike.get(_beginning(account, prompt), {}).values()
            if not session.is_on(avoid)
        )
        return max(
            (match for match in matches if self._can_be_used(match) and _is_worth_it(match, len(prompt))),
            key=lambda match: (match.held, -len(match.session.tokens)),
            default=None,
        )

    def _can_be_used(self, match: Match) -> bool:
        return match.session.positions - match.held <= self._forgets

    @property
    def oldest(self) -> Parked | None:
        return next(iter(self._sessions.values()), None)

    def evict(self, nodes: Collection[str] | None = None) -> Parked | None:
        """Drop the session of the least worth, of those whose routes run through these nodes; None means all."""
        sessions = (one for one in self._sessions.values() if nodes is None or one.is_on(nodes))
        session = min(sessions, key=self._worth, default=None)
        if session is not None:
            self._faded = max(self._faded, self._worth(session))
            self.drop(session.number)
        return session

    def _worth(self, session: Parked) -> float:
        return self._begun[session.number] + min(session.uses, _MOST_USES) / self._accounts[session.account]

    def expired(self, now: float) -> list[Parked]:
        return [session for session in self._sessions.values() if session.since + KEEP_S <= now]


def _beginning(account: str, tokens: Ids) -> tuple[str, bytes]:
    return account, np.asarray(tokens[:LEAST_PREFIX], np.int32).tobytes()


def _common(prompt: Ids, tokens: Ids) -> int:
    """How many first tokens are the same. The prompt's last one does not count, because it must be fed to see what
    follows.
    """
    most = min(len(prompt) - 1, len(tokens))
    if most < LEAST_PREFIX:
        return 0
    different = np.flatnonzero(prompt[:most] != tokens[:most])
    return int(different[0]) if different.size else most


def _is_worth_it(match: Match, prompt: int) -> bool:
    """Whether the request saves more than the session loses, since what it holds beyond the prefix is forgotten.

    Chats often begin with the same few lines. Without this rule, a new one would take those from another's session,
    whose next turn would then find nothing. A request whose whole prompt is there is the same chat, asked again.
    """
    lost = len(match.session.tokens) - match.held
    return match.held >= LEAST_PREFIX and (lost <= match.held or match.held == prompt - 1)
