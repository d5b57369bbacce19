"""Whose turn it is, in a simulated server: no clock but the test's own."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.sessions import fair_queue
from potluck.coordinator.sessions.claim import Claim, Rank
from potluck.coordinator.sessions.fair_queue import AGING_S, FairQueue, Turn
from potluck.errors import Busy

ANNA, BEN = Claim("anna"), Claim("ben")
RANKS = st.sampled_from(list(Rank))
CLAIMS = st.builds(Claim, st.sampled_from(["anna", "ben", "cleo"]), RANKS, st.just(1.0))


def serve(queue: FairQueue, now: float = 0.0) -> Turn:
    """The next request, from its start to its end."""
    turn = queue.first(now)
    assert turn is not None
    queue.start(turn)
    queue.end(turn, turn.work, now)
    return turn


def served(queue: FairQueue, count: int, now: float = 0.0) -> list[str]:
    return [serve(queue, now).claim.account for _ in range(count)]


def test_nobody_waits_in_an_empty_queue() -> None:
    queue = FairQueue()
    assert (len(queue), queue.first(0), queue.ordered(0)) == (0, None, [])


def test_those_who_wait_are_counted_by_class() -> None:
    queue = FairQueue()
    for rank, urgent in ((Rank.BATCH, False), (Rank.BATCH, False), (Rank.INTERACTIVE, True)):
        queue.join(Claim("anna", rank), 1, 0, urgent=urgent)
    assert queue.waiting() == {Rank.BATCH: 2, Rank.INTERACTIVE: 1}
    assert serve(queue).urgent
    assert queue.waiting() == {Rank.BATCH: 2}


def test_requests_of_one_account_keep_their_order() -> None:
    queue = FairQueue()
    turns = [queue.join(ANNA, work, 0) for work in (5, 1, 3)]
    assert [serve(queue) for _ in turns] == turns


def test_accounts_take_turns_in_work_not_in_requests() -> None:
    queue = FairQueue()
    for _ in range(4):
        queue.join(ANNA, 30, 0)
    for _ in range(12):
        queue.join(BEN, 10, 0)
    assert served(queue, 8) == ["anna", "ben", "ben", "ben", "anna", "ben", "ben", "ben"]


def test_a_newcomer_is_next_behind_a_hundred_of_another() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.join(ANNA, 10, 0)
    assert served(queue, 20) == ["anna"] * 20
    queue.join(BEN, 10, 0)
    assert "ben" in served(queue, 2)


def test_nobody_saves_up_by_not_asking() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.join(ANNA, 10, 0)
    served(queue, 50)
    for _ in range(100):
        queue.join(BEN, 10, 0)
    assert Counter(served(queue, 40)) == {"anna": 20, "ben": 20}


def test_who_finds_the_queue_empty_starts_with_what_others_had_used() -> None:
    queue = FairQueue()
    for _ in range(50):
        queue.join(ANNA, 10, 0)
    served(queue, 50)
    for claim in (BEN, ANNA):
        for _ in range(20):
            queue.join(claim, 10, 0)
    assert Counter(served(queue, 11)) == {"anna": 5, "ben": 6}  # anna's latest request counts


def test_the_classes_come_in_their_order_and_urgent_ones_before_all() -> None:
    queue = FairQueue()
    for rank in reversed(Rank):
        queue.join(Claim(rank.word, rank), 1, 0)
    queue.join(Claim("interrupted", Rank.ANONYMOUS), 1, 0, urgent=True)
    assert served(queue, 4) == ["interrupted", "interactive", "batch", "anonymous"]


def test_an_answer_that_ends_early_costs_what_it_took() -> None:
    queue = FairQueue()
    for _ in range(50):
        queue.join(ANNA, 1000, 0)  # asks for much, and takes as little as the other
        queue.join(BEN, 10, 0)
    order = []
    for _ in range(40):
        turn = queue.first(0)
        assert turn is not None
        queue.start(turn)
        queue.end(turn, 10, 0)
        order.append(turn.claim.account)
    assert Counter(order) == {"anna": 20, "ben": 20}


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 6),
    RANKS,
)
def test_backlogged_accounts_differ_by_their_largest_requests_at_most(
    sizes: list[int], others: list[int], weights: tuple[int, int], slots: int, rank: Rank
) -> None:
    """Whatever their sizes, and however many run at once; work over weight is compared after each start."""
    queue = FairQueue()
    claims = [Claim(name, rank, weight) for name, weight in zip(("anna", "ben"), weights, strict=True)]
    largest = sum(max(works) / claim.weight for works, claim in zip((sizes, others), claims, strict=True))
    supply = {claim.account: cycle(works) for claim, works in zip(claims, (sizes, others), strict=True)}
    for claim in claims:
        for _ in range(3):
            queue.join(claim, next(supply[claim.account]), 0)
    used: dict[str, float] = defaultdict(float)
    running: list[Turn] = []
    for _ in range(120):
        turn = queue.first(0)
        assert turn is not None
        queue.start(turn)
        running.append(turn)
        queue.join(turn.claim, next(supply[turn.claim.account]), 0)
        used[turn.claim.account] += turn.share
        assert abs(used["anna"] - used["ben"]) <= largest + 1e-6
        if len(running) == slots:
            done = running.pop(0)
            queue.end(done, done.work, 0)


@pytest.mark.parametrize("early", [1.0, 0.1])
def test_unequal_appetites_get_equal_work_within_five_percent(early: float) -> None:
    """anna asks for few long answers, ben for many short ones; eight run at once, each as long as its work takes.

    early: the part of its limit that anna's answers take.
    """
    queue = FairQueue()
    appetites = {"anna": (4000, early, 10), "ben": (150, 1.0, 100)}
    for account, (work, _, waiting) in appetites.items():
        for _ in range(waiting):
            queue.join(Claim(account), work, 0)
    done: dict[str, float] = defaultdict(float)
    running: list[tuple[float, int, Turn, float]] = []
    now = 0.0
    while sum(done.values()) < 800_000:
        while len(running) < 8:
            turn = queue.first(now)
            assert turn is not None
            queue.start(turn)
            work, part, _ = appetites[turn.claim.account]
            running.append((now + work * part, turn.number, turn, work * part))
            queue.join(turn.claim, work, now)
        running.sort()
        now, _, turn, took = running.pop(0)
        queue.end(turn, took, now)
        done[turn.claim.account] += took
    assert done["anna"] == pytest.approx(done["ben"], rel=0.05)


@given(st.lists(st.tuples(CLAIMS, st.integers(1, 100), st.booleans()), max_size=30), st.floats(0, 4 * AGING_S))
def test_all_that_join_are_served_once_in_the_order_that_is_told(
    requests: list[tuple[Claim, int, bool]], now: float
) -> None:
    """The server never idles while somebody waits, and who is first of all is who is first of the whole order."""
    queue = FairQueue()
    turns = {queue.join(claim, work, 0, urgent=urgent) for claim, work, urgent in requests}
    assert set(queue.ordered(now)) == turns
    order = queue.ordered(now)
    taken = []
    while (turn := queue.first(now)) is not None:
        assert queue.ordered(now)[0] is turn
        queue.start(turn)  # and goes on: of its class none rises again
        taken.append(turn)
    assert set(taken) == turns
    assert len(taken) == len(turns)
    assert len(queue) == 0
    if not any(turn.urgent for turn in turns):  # these count as work, which the order of the others follows
        assert taken == order


@given(st.lists(st.tuples(CLAIMS, st.integers(1, 100), st.booleans()), max_size=20), st.floats(0, 4 * AGING_S))
def test_urgent_ones_are_first_whatever_has_risen(requests: list[tuple[Claim, int, bool]], now: float) -> None:
    queue = FairQueue()
    for claim, work, urgent in requests:
        queue.join(claim, work, 0, urgent=urgent)
    flags = [turn.urgent for turn in queue.ordered(now)]
    assert flags == sorted(flags, reverse=True)


def starts(queue: FairQueue, seconds: int, newcomers: Callable[[int], Iterable[Claim]]) -> list[tuple[int, Turn]]:
    """One request a second, each as long, while so many come each second."""
    began = []
    for now in range(seconds):
        for claim in newcomers(now):
            queue.join(claim, 10, now)
        if (turn := queue.first(now)) is not None:
            queue.start(turn)
            queue.end(turn, turn.work, now + 1)
            began.append((now, turn))
    return began


def test_under_endless_interactive_load_every_class_gets_a_turn_a_minute() -> None:
    queue = FairQueue()
    for rank in (Rank.BATCH, Rank.ANONYMOUS):
        for _ in range(5):
            queue.join(Claim("", rank), 10, 0)
    began = starts(queue, 1000, lambda _: [ANNA])
    for rank, rises in ((Rank.BATCH, 1), (Rank.ANONYMOUS, 2)):
        times = [now for now, turn in began if turn.claim.rank is rank]
        assert len(times) == 5
        assert all(late - early <= rises * AGING_S + 2 for early, late in pairwise([0, *times]))


@given(st.lists(st.tuples(st.integers(0, 200), CLAIMS), max_size=4))
def test_nobody_starves(requests: list[tuple[int, Claim]]) -> None:
    """Whatever comes, in whichever class, starts under endless load of all classes by another account."""
    queue = FairQueue()
    flood = [Claim("flood", rank) for rank in Rank]
    coming = defaultdict(list)
    for now, claim in requests:
        coming[now].append(claim)

    def newcomers(now: int) -> list[Claim]:
        return [*coming[now], flood[now % len(flood)]]

    began = starts(queue, 200 + len(requests) * 5 * int(AGING_S), newcomers)
    assert sum(turn.claim.account != "flood" for _, turn in began) == len(requests)


def test_a_class_of_which_something_runs_does_not_rise() -> None:
    queue = FairQueue()
    batch, anonymous = Claim("anna", Rank.BATCH), Claim("", Rank.ANONYMOUS)
    first, second = (queue.join(batch, 1, 0) for _ in range(2))
    queue.start(first)
    newcomer = queue.join(BEN, 1, 10 * AGING_S)
    assert queue.ordered(10 * AGING_S) == [newcomer, second]
    queue.end(first, 1, 10 * AGING_S)
    assert queue.ordered(10.9 * AGING_S) == [newcomer, second]
    assert queue.ordered(11 * AGING_S) == [second, newcomer]
    last = queue.join(anonymous, 1, 11 * AGING_S)
    assert queue.ordered(12 * AGING_S) == [second, newcomer, last]  # it is first of the batch class now, no more
    assert queue.level(last, 12 * AGING_S) == Rank.BATCH


def test_who_has_risen_goes_before_those_who_have_waited_longer() -> None:
    queue = FairQueue()
    old = queue.join(ANNA, 1, 0)
    risen = queue.join(Claim("ben", Rank.BATCH), 1, 1)
    assert queue.ordered(AGING_S) == [old, risen]
    assert queue.ordered(1 + AGING_S) == [risen, old]


def test_only_the_first_of_a_class_rises() -> None:
    queue = FairQueue()
    first, second = (queue.join(Claim("anna", Rank.BATCH), 1, 0) for _ in range(2))
    newcomer = queue.join(BEN, 1, AGING_S)
    assert queue.ordered(AGING_S) == [first, newcomer, second]


def test_who_leaves_costs_its_account_nothing() -> None:
    queue = FairQueue()
    gone, urgent = queue.join(ANNA, 1000, 0), queue.join(ANNA, 1000, 0, urgent=True)
    queue.join(ANNA, 10, 0)
    queue.join(BEN, 10, 0)
    queue.leave(gone)
    queue.leave(urgent)
    assert served(queue, 2) == ["anna", "ben"]


def test_an_account_that_fills_its_part_of_the_queue_locks_out_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "MOST_OF_ACCOUNT", 3)
    monkeypatch.setattr(fair_queue, "MOST_OF_CLASS", 5)
    queue, batch = FairQueue(), Rank.BATCH
    for _ in range(3):
        queue.join(Claim("anna", batch), 1, 0)
    with pytest.raises(Busy, match="3 batch requests of this account are already waiting"):
        queue.join(Claim("anna", batch), 1, 0)
    queue.join(ANNA, 1, 0)
    queue.join(Claim("ben", batch), 1, 0)
    queue.join(Claim("cleo", batch), 1, 0)
    with pytest.raises(Busy, match="5 batch requests are already waiting"):
        queue.join(Claim("dora", batch), 1, 0)
    queue.join(Claim("anna", batch), 1, 0, urgent=True)
    queue.join(BEN, 1, 0)
    assert len(queue) == 8


def test_everyone_is_told_the_reason_for_their_place() -> None:
    queue = FairQueue()
    queue.join(Claim("anna", Rank.BATCH), 10, 0)
    queue.join(Claim("anna", weight=2), 10, 1)
    queue.join(Claim("ben"), 10, 2)
    queue.join(Claim("anna", weight=2), 10, 3)
    queue.join(Claim(rank=Rank.ANONYMOUS), 1, 4, urgent=True)
    standings = queue.standings(10, most=4)
    assert [standing.waited_s for standing in standings] == [6, 9, 8, 7]
    assert [standing.reason for standing in standings] == [
        "an interrupted answer continues before all others.",
        "0 of its requests and 1 of others are before it.",
        "0 of its requests and 2 of others are before it.",
        "1 of its requests and 2 of others are before it.",
    ]
    assert len(queue.standings(10, most=9)) == 5


@pytest.mark.parametrize(
    ("rank", "now", "reason"),
    [
        (Rank.INTERACTIVE, 0, "it is next when there is room."),
        (Rank.BATCH, 0, "it is next when there is room for it and for an interactive request besides."),
        (Rank.BATCH, AGING_S, "it is next when there is room."),
        (Rank.ANONYMOUS, AGING_S, "it is next when there is room for it and for an interactive request besides."),
    ],
)
def test_who_is_next_is_told_what_it_waits_for(rank: Rank, now: float, reason: str) -> None:
    queue = FairQueue()
    queue.join(Claim("anna", rank), 1, 0)
    [standing] = queue.standings(now, most=5)
    assert standing.reason == reason


# Several queues that tell each other what they charge


def exchange(queues: list[FairQueue]) -> None:
    news = [queue.taken() for queue in queues]
    for queue in queues:
        for taken, other in zip(news, queues, strict=True):
            if other is not queue:
                queue.taken_elsewhere(taken)


class Server:
    """A queue and what it serves: one request at a time, so much work a second. asking: the sizes of each account's
    requests, of which some always wait here. part: of its size that a request takes.
    """

    def __init__(self, speed: float, asking: dict[str, list[int]], part: float) -> None:
        self.queue = FairQueue()
        self.speed, self.part = speed, part
        self._supply = {account: cycle(sizes) for account, sizes in asking.items()}
        self.now = 0.0
        for account in asking:
            for _ in range(3):
                self._join(account)

    def _join(self, account: str) -> None:
        self.queue.join(Claim(account), next(self._supply[account]), self.now)

    def serve(self) -> tuple[str, float]:
        turn = self.queue.first(self.now)
        assert turn is not None
        self.queue.start(turn)
        took = turn.work * self.part
        self.now += took / self.speed
        self.queue.end(turn, took, self.now)
        self._join(turn.claim.account)
        return turn.claim.account, took


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5)


@given(SIZES, SIZES, st.sampled_from(["both", "one"]), st.integers(2, 3), st.sampled_from([1.0, 0.25]))
def test_accounts_get_equal_work_in_sum_of_several_queues(
    sizes: list[int], others: list[int], where: str, count: int, part: float
) -> None:
    """ben asks at all queues or only at the first, which is as fast as all others and more."""
    speeds = [100.0 * count, *[100.0] * (count - 1)]
    everywhere, alone = {"anna": sizes, "ben": others}, {"anna": sizes}
    servers = [
        Server(speed, everywhere if where == "both" or not number else alone, part)
        for number, speed in enumerate(speeds)
    ]
    bound = sum(speeds) * 1.0 + count * (max(sizes) + max(others))
    done: dict[str, float] = defaultdict(float)
    told = 0.0
    while told < 20.0:
        server = min(servers, key=lambda each: each.now)
        if server.now >= told + 1.0:
            told += 1.0
            exchange([each.queue for each in servers])
            continue
        account, took = server.serve()
        done[account] += took
        assert abs(done["anna"] - done["ben"]) <= bound
    assert sum(done.values()) > 10 * bound


def test_who_takes_much_elsewhere_gets_less_here_and_whoever_comes_later_gets_no_more_for_it() -> None:
    queue, batch = FairQueue(), (int(Rank.INTERACTIVE), "anna")
    for _ in range(30):
        queue.join(ANNA, 10, 0)
    queue.taken_elsewhere({batch: 1000.0, (int(Rank.BATCH), "anna"): 5000.0, (int(Rank.INTERACTIVE), "ben"): 9.0})
    for _ in range(30):
        queue.join(BEN, 10, 0)
    assert Counter(served(queue, 20)) == {"anna": 10, "ben": 10}  # ben did not ask while anna took that
    queue.taken_elsewhere({batch: 100.0})
    assert Counter(served(queue, 11)) == {"ben": 10, "anna": 1}


def test_whoever_comes_while_a_request_runs_starts_with_what_its_account_has_with_what_it_got_elsewhere() -> None:
    queue = FairQueue()
    running = queue.join(ANNA, 10, 0)
    queue.start(running)
    queue.taken_elsewhere({(int(Rank.INTERACTIVE), "anna"): 1000.0})
    for claim in (BEN, ANNA):
        for _ in range(20):
            queue.join(claim, 10, 0)
    queue.end(running, 10, 0)
    assert Counter(served(queue, 11)) == {"anna": 5, "ben": 6}  # as if anna had got nothing elsewhere


def test_who_asks_one_by_one_is_charged_as_well() -> None:
    """Between its requests it does not ask here for a moment."""
    queue = FairQueue()
    for _ in range(30):
        queue.join(BEN, 10, 0)
    for _ in range(3):
        queue.join(ANNA, 10, 0)
        while served(queue, 1) != ["anna"]:
            pass
        queue.taken()
        for _ in range(2):  # so many others tell it
            queue.taken_elsewhere({(int(Rank.INTERACTIVE), "anna"): 25.0})
    queue.join(ANNA, 10, 0)
    assert served(queue, 5) == ["ben"] * 5


def test_who_does_not_ask_here_is_neither_known_nor_charged_and_saves_up_nothing() -> None:
    queue, shares = FairQueue(), {(int(Rank.INTERACTIVE), f"account {number}"): 5.0 for number in range(100)}
    serve_one = queue.join(ANNA, 10, 0)
    queue.start(serve_one)
    queue.end(serve_one, 10, 0)
    for _ in range(fair_queue._LATELY):
        queue.taken()
    queue.taken_elsewhere(shares)
    assert len(queue._classes[Rank.INTERACTIVE].flows) == 1
    queue.taken_elsewhere({(int(Rank.INTERACTIVE), "anna"): 1000.0})  # it has not asked lately
    queue.join(ANNA, 10, 0)
    queue.taken_elsewhere({(int(Rank.INTERACTIVE), "anna"): -1000.0})  # those that were charged while it did not ask
    for _ in range(20):
        queue.join(BEN, 10, 0)
        queue.join(ANNA, 10, 0)
    assert Counter(served(queue, 20)) == {"anna": 10, "ben": 10}


def test_what_was_charged_is_told_once_with_the_corrections() -> None:
    queue = FairQueue()
    turn = queue.join(Claim("anna", Rank.BATCH, weight=2.0), 100, 0)
    assert queue.taken() == {}
    queue.start(turn)
    assert queue.taken() == {(1, "anna"): 50.0}
    queue.end(turn, 20, 0)
    assert queue.taken() == {(1, "anna"): -40.0}
    assert queue.taken() == {}
