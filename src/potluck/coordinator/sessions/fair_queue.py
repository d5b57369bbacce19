"""The scheduler of requests: a queue that is fair over accounts, in work. Pure: times are passed in, in seconds."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.errors import Busy

AGING_S = 60.0
"""A class in which nothing has run for this many seconds, while somebody waits, rises by one for one request. Someone
who waits for a token can bear one batch request a minute before them, and an answer a minute is still progress for the
batch."""

MOST_OF_ACCOUNT = 128
"""The requests of one account that may wait in a class: two of the largest `n`. One account cannot fill the queue."""

MOST_OF_CLASS = 1024
"""The requests that may wait in a class. Later ones would wait for minutes even in a fast swarm, so they are refused.
"""

_LATELY = 2
"""The periods, between two calls of `taken`, for which an account still asks here after its last request: who sends one
request after the other is charged for its work elsewhere whenever that becomes known."""


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """The turn of one request.

    work: expected, in tokens times layers. urgent: it comes before all that are not. joined: when it joined.
    """

    claim: Claim
    work: float
    urgent: bool
    joined: float
    number: int

    @property
    def share(self) -> float:
        """The share of work that the request costs its account."""
        return self.work / self.claim.weight


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing of a waiting request, and the reason for its place, without a name: the end of a sentence."""

    claim: Claim
    waited_s: float
    reason: str


class _Flow:
    """One account's requests of one class, in the order in which they came.

    used: the account's work so far over its weight; the flow that has used least is next. An account that had nothing
    waiting starts with what the others have, because nobody saves up by not asking.
    """

    def __init__(self) -> None:
        self.used = 0.0
        self.turns: deque[Turn] = deque()
        self.running = 0
        self._seen = -_LATELY
        """The period in which a request of it waited or ran here last, if none does now."""
        self._elsewhere = 0.0
        """What it was charged for work elsewhere since it asks here, of which it may get some back."""

    def tags(self) -> Iterator[tuple[float, Turn]]:
        """Each request with what the account will have used when its turn comes."""
        used = self.used
        for turn in self.turns:
            yield used, turn
            used += turn.share

    def asks(self, period: int) -> bool:
        """Whether a request of it waits or runs here, or has done so lately."""
        return bool(self.turns or self.running or period - self._seen < _LATELY)

    def see(self, period: int) -> None:
        """Note that a request of it comes, starts or ends."""
        if not self.asks(period):
            self._elsewhere = 0.0
        self._seen = period

    def charge(self, share: float) -> None:
        """Charge the account for work elsewhere. It gets no more back than it was charged since it asks here."""
        share = max(share, -self._elsewhere)
        self._elsewhere += share
        self.used += share


class _Class:
    """The flows of one rank, and how many of its requests run. idle_since: when the last of these ended."""

    def __init__(self) -> None:
        self.flows: dict[str, _Flow] = {}
        self.running = 0
        self.idle_since = 0.0
        self._latest = 0.0
        """The most that a flow had used when a request of it started."""
        self._taken: defaultdict[str, float] = defaultdict(float)
        self._period = 0
        """How often `taken` was called."""

    @property
    def waiting(self) -> int:
        return sum(len(flow.turns) for flow in self.flows.values())

    def join(self, turn: Turn) -> None:
        flow = self.flows.setdefault(turn.claim.account, _Flow())
        flow.see(self._period)
        if not flow.turns:
            least = min((other.used for other in self.flows.values() if other.turns), default=self._latest)
            flow.used = max(flow.used, least)
        flow.turns.append(turn)

    def start(self, turn: Turn) -> None:
        flow = self.flows[turn.claim.account]
        self._latest = max(self._latest, flow.used)
        self._use(flow, turn, turn.share)
        flow.running += 1
        self.running += 1

    def end(self, turn: Turn, work: float, now: float) -> None:
        flow = self.flows[turn.claim.account]
        self._use(flow, turn, (work - turn.work) / turn.claim.weight)
        flow.running -= 1
        self.running -= 1
        self.idle_since = now

    def _use(self, flow: _Flow, turn: Turn, share: float) -> None:
        flow.see(self._period)
        flow.used += share
        self._taken[turn.claim.account] += share

    def taken(self) -> dict[str, float]:
        """What each account was charged for its requests here since this was last asked."""
        taken, self._taken = self._taken, defaultdict(float)
        self._period += 1
        return taken

    def taken_elsewhere(self, shares: Mapping[str, float]) -> None:
        """Charge the accounts that ask here. Whoever comes later starts with what these have then, because nobody saves
        up by not asking.
        """
        asking = [(account, flow) for account, flow in self.flows.items() if flow.asks(self._period)]
        least = min((flow.used for _, flow in asking), default=0.0)
        for account, flow in asking:
            flow.charge(shares.get(account, 0.0))
        self._latest += min((flow.used for _, flow in asking), default=0.0) - least

    def head(self) -> Turn | None:
        heads = [(flow.used, flow.turns[0].number, flow.turns[0]) for flow in self.flows.values() if flow.turns]
        return min(heads)[2] if heads else None

    def ordered(self) -> list[Turn]:
        """All waiting requests in order, as if no more came."""
        tagged = [(tag, turn.number, turn) for flow in self.flows.values() for tag, turn in flow.tags()]
        return [turn for *_, turn in sorted(tagged)]

    def rises(self, now: float) -> int:
        """The number of ranks by which its first request stands higher, because none of the class runs or has run
        lately.
        """
        joined = [flow.turns[0].joined for flow in self.flows.values() if flow.turns]
        if self.running or not joined:
            return 0
        return int((now - max(self.idle_since, min(joined))) / AGING_S)


class FairQueue:
    """A queue in which classes come first; within a class, accounts that wait get work in proportion to their weights.

    A request is charged for what it may take when it starts, and gets the difference back when it ends. Between two
    accounts, the difference in work over weight is at most the largest request of each.
    """

    def __init__(self) -> None:
        self._classes = {rank: _Class() for rank in Rank}
        self._urgent: deque[Turn] = deque()
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._urgent) + sum(each.waiting for each in self._classes.values())

    def waiting(self) -> Counter[Rank]:
        """How many requests of each class wait, including urgent ones."""
        return Counter(turn.claim.rank for turn in self._urgent) + Counter(
            {rank: each.waiting for rank, each in self._classes.items()}
        )

    def join(self, claim: Claim, work: float, now: float, *, urgent: bool = False) -> Turn:
        """Let a request wait from now on. Raises Busy when too many do, but never for an urgent one."""
        turn = Turn(claim, work, urgent, now, next(self._numbers))
        if urgent:
            self._urgent.append(turn)
        else:
            self._check(claim)
            self._classes[claim.rank].join(turn)
        return turn

    def _check(self, claim: Claim) -> None:
        own = self._classes[claim.rank]
        flow = own.flows.get(claim.account)
        if flow is not None and len(flow.turns) >= MOST_OF_ACCOUNT:
            raise Busy(
                f"{len(flow.turns)} {claim.rank.word} requests of this account are already waiting. Try again later."
            )
        if own.waiting >= MOST_OF_CLASS:
            raise Busy(
                f"The swarm is busy: {own.waiting} {claim.rank.word} requests are already waiting. Try again later."
            )

    def leave(self, turn: Turn) -> None:
        """Let a request wait no longer."""
        if turn.urgent:
            self._urgent.remove(turn)
        else:
            self._classes[turn.claim.rank].flows[turn.claim.account].turns.remove(turn)

    def start(self, turn: Turn) -> None:
        """Let a request run, so that it waits no longer."""
        own = self._classes[turn.claim.rank]
        own.flows.setdefault(turn.claim.account, _Flow())  # an interrupted answer need not have waited there
        own.start(turn)
        self.leave(turn)

    def end(self, turn: Turn, work: float, now: float) -> None:
        """End a request that ran. work: what it really took."""
        self._classes[turn.claim.rank].end(turn, work, now)

    def taken(self) -> dict[tuple[int, str], float]:
        """What accounts were charged here since this was last asked, by rank and account: work over weight.

        It is less than nothing where requests have ended that took less than was charged before.
        """
        return {
            (int(rank), name): share for rank, each in self._classes.items() for name, share in each.taken().items()
        }

    def taken_elsewhere(self, shares: Mapping[tuple[int, str], float]) -> None:
        """Charge accounts that ask here for what another queue has told by `taken`, so that they get equal work in sum.

        Those that ask at both queues then differ by the largest request of each at each queue, and by the work that the
        queues start before they tell each other.
        """
        for rank, own in self._classes.items():
            own.taken_elsewhere({account: share for (other, account), share in shares.items() if other == rank})

    def runs(self, rank: Rank) -> bool:
        """Whether a request of this class runs."""
        return self._classes[rank].running > 0

    def level(self, turn: Turn, now: float) -> int:
        """The rank with which a request that is first of its class is tried: its own, or a higher one after a while."""
        rank = turn.claim.rank
        return Rank.INTERACTIVE if turn.urgent else max(Rank.INTERACTIVE, rank - self._classes[rank].rises(now))

    def first(self, now: float) -> Turn | None:
        """The request whose turn it is; None when nobody waits."""
        if self._urgent:
            return self._urgent[0]
        heads = [head for each in self._classes.values() if (head := each.head()) is not None]
        return min(heads, key=lambda turn: (self._precedence(turn, now), turn.number), default=None)

    def _precedence(self, head: Turn, now: float) -> tuple[int, bool]:
        """The precedence of the first of a class. If it has risen, it goes before those whose own rank it has now."""
        level = self.level(head, now)
        return level, level == head.claim.rank

    def ordered(self, now: float) -> list[Turn]:
        """All waiting requests in order, as if no more came and no time passed."""
        places: list[tuple[tuple[int, bool], int, int, Turn]] = []
        for each in self._classes.values():
            for place, turn in enumerate(each.ordered()):
                precedence = (int(turn.claim.rank), True) if place else self._precedence(turn, now)
                places.append((precedence, place, turn.number, turn))
        return [*self._urgent, *(turn for *_, turn in sorted(places))]

    def standings(self, now: float, most: int) -> list[Standing]:
        """The standings of the first requests, in their order."""
        before: Counter[tuple[Rank, str]] = Counter()
        standings = []
        for place, turn in enumerate(self.ordered(now)[:most]):
            own = before[turn.claim.rank, turn.claim.account]
            before[turn.claim.rank, turn.claim.account] += 1
            standings.append(Standing(turn.claim, now - turn.joined, self._reason(turn, own, place - own, now)))
        return standings

    def _reason(self, turn: Turn, own: int, others: int, now: float) -> str:
        if turn.urgent:
            return "an interrupted answer continues before all others."
        if own or others:
            return f"{own} of its requests and {others} of others are before it."
        level = self.level(turn, now)
        if level == Rank.INTERACTIVE:
            return "it is next when there is room."
        return "it is next when there is room for it and for an interactive request besides."
