import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potluck.coordinator.sessions.prefix_cache import KEEP_S, LEAST_PREFIX, Parked, PrefixCache
from potluck.types import Span, Stage
from potluck.wire.rows import Ids


def ids(*values: int) -> Ids:
    return np.array(values, np.int32)


def count(*bounds: int) -> Ids:
    return np.arange(*bounds, dtype=np.int32)


def parked(number: int, tokens: Ids, node: str = "n1", since: float = 0.0) -> Parked:
    return Parked(number, (Stage(node, Span(0, 3)),), tokens, 7, since)


def kept(*sessions: Parked) -> PrefixCache:
    all_of_them = PrefixCache()
    for session in sessions:
        assert all_of_them.park(session)
    return all_of_them


def best(sessions: PrefixCache, prompt: Ids, avoid: tuple[str, ...] = ()) -> tuple[int, int] | None:
    match = sessions.best(prompt, avoid)
    return None if match is None else (match.session.number, match.held)


def test_the_longest_common_prefix_wins() -> None:
    sessions = kept(parked(1, count(20)), parked(2, count(30)), parked(3, count(40, 80)), parked(4, count(25)))
    assert best(sessions, count(50)) == (2, 30)
    assert best(sessions, np.concatenate([count(25), count(99, 120)])) == (4, 25)
    assert best(sessions, count(41, 80)) is None


def test_nobody_takes_over_what_another_account_has_asked() -> None:
    sessions = kept(replace(parked(1, count(30)), account="anna"), replace(parked(2, count(20)), account="ben"))
    assert best(sessions, count(31)) is None
    for account, number in (("anna", 1), ("ben", 2)):
        match = sessions.best(count(31), account=account)
        assert match is not None
        assert match.session.number == number


def test_the_last_token_of_a_prompt_is_always_fed() -> None:
    sessions = kept(parked(1, count(30)))
    assert best(sessions, count(31)) == (1, 30)
    assert best(sessions, count(30)) == (1, 29)
    assert best(sessions, count(29)) == (1, 28)


def test_an_account_whose_sessions_are_all_dropped_is_forgotten() -> None:
    sessions = kept(*(replace(parked(number, count(20)), account=f"a{number % 3}") for number in range(6)))
    for number in range(5):
        assert sessions.drop(number)
    assert sessions._accounts == {"a2": 1}
    assert list(sessions._accounts) == ["a2"]


def test_a_short_prefix_is_none() -> None:
    sessions = kept(parked(1, count(LEAST_PREFIX)))
    assert best(sessions, count(LEAST_PREFIX + 1)) == (1, LEAST_PREFIX)
    assert best(sessions, count(LEAST_PREFIX)) is None
    assert best(sessions, ids()) is None
    assert not sessions.park(parked(2, count(LEAST_PREFIX - 1)))
    assert len(sessions) == 1


def test_a_session_is_not_taken_from_a_chat_that_only_begins_alike() -> None:
    sessions = kept(parked(1, count(100)))
    assert best(sessions, np.concatenate([count(49), count(500, 600)])) is None
    assert best(sessions, np.concatenate([count(50), count(500, 600)])) == (1, 50)


def test_the_same_question_again_takes_the_session_however_long_its_answer_was() -> None:
    assert best(kept(parked(1, count(1000))), count(30)) == (1, 29)


def test_of_equal_matches_the_one_that_loses_least_is_taken() -> None:
    assert best(kept(parked(1, count(60)), parked(2, count(50))), np.concatenate([count(40), ids(7, 8)])) == (2, 40)


def test_a_route_through_an_avoided_node_is_no_match() -> None:
    sessions = kept(parked(1, count(40), "n1"), parked(2, count(30), "n2"))
    assert best(sessions, count(50), ("n1",)) == (2, 30)
    assert best(sessions, count(50), ("n1", "n2")) is None


def test_all_go_in_time() -> None:
    sessions = kept(parked(1, count(20), since=10), parked(2, count(20), since=11))
    assert sessions.expired(10 + 3600) == []
    assert sessions.expired(10 + KEEP_S - 0.1) == []
    assert [session.number for session in sessions.expired(10 + KEEP_S)] == [1]
    assert [session.number for session in sessions.expired(11 + KEEP_S)] == [1, 2]
    assert sessions.oldest is not None
    assert sessions.oldest.number == 1
    sessions.drop(1)
    sessions.drop(1)
    assert sessions.oldest.number == 2
    sessions.drop(2)
    assert sessions.oldest is None


def test_a_session_that_was_taken_over_and_parked_again_is_the_newest() -> None:
    sessions = kept(parked(1, count(20)), parked(2, count(20)))
    sessions.drop(1)
    sessions.park(parked(1, count(30)))
    assert sessions.oldest is not None
    assert sessions.oldest.number == 2


def evicted(sessions: PrefixCache, nodes: tuple[str, ...] | None = None) -> int | None:
    session = sessions.evict(nodes)
    return None if session is None else session.number


def test_of_equally_worthy_sessions_the_oldest_gives_way() -> None:
    sessions = kept(parked(1, count(200)), parked(2, count(20)), parked(3, count(40)))
    assert [evicted(sessions) for _ in range(4)] == [1, 2, 3, None]


def test_on_some_nodes_only_their_sessions_give_way() -> None:
    sessions = kept(parked(1, count(20), "n1"), parked(2, count(20), "n2"), parked(3, count(20), "n2"))
    assert [evicted(sessions, ("n2", "n3")) for _ in range(3)] == [2, 3, None]
    assert 1 in sessions
    assert 2 not in sessions


def test_a_chat_of_several_turns_outlives_single_requests_but_not_for_ever() -> None:
    sessions = kept(replace(parked(0, count(20)), uses=3), parked(1, count(20)), parked(2, count(20)))
    rest = list[int | None]()
    for number in range(3, 30):
        assert sessions.park(parked(number, count(20)))
        rest.append(evicted(sessions))
    assert rest[:4] == [1, 2, 3, 4]
    assert 0 in rest


def test_no_number_of_uses_keeps_a_session_longer_than_a_few_do() -> None:
    sessions = kept(replace(parked(1, count(20)), uses=100), replace(parked(2, count(20)), uses=10))
    assert evicted(sessions) == 1


def test_who_keeps_many_sessions_gives_way_to_who_keeps_few() -> None:
    """However recent the many are, and however long ago the few were parked; but not for ever."""
    sessions, few = PrefixCache(), replace(parked(0, count(20)), account="anna")
    assert sessions.park(few)
    for number in range(1, 9):
        assert sessions.park(replace(parked(number, count(20)), account="ben"))
    gone = list[int | None]()
    for number in range(9, 100):
        gone.append(evicted(sessions))
        assert sessions.park(replace(parked(number, count(20)), account="ben"))
    assert gone[:8] == [*range(1, 9)]
    assert 0 in gone


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.lists(st.integers(0, 1), min_size=16, max_size=40))
def test_what_is_held_is_a_prefix_of_both(prompt: list[int], tokens: list[int]) -> None:
    match = kept(parked(1, ids(*tokens))).best(ids(*prompt))
    common = next((at for at, pair in enumerate(zip(prompt, tokens, strict=False)) if pair[0] != pair[1]), None)
    longest = min(len(prompt) - 1, len(tokens) if common is None else common)
    if match is None:
        assert longest < LEAST_PREFIX or len(tokens) > 2 * longest
    else:
        assert match.held == longest
        assert LEAST_PREFIX <= match.held < len(prompt)


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2, 3)])
def test_they_are_counted(numbers: tuple[int, ...]) -> None:
    assert len(kept(*(parked(number, count(20)) for number in numbers))) == len(numbers)


@pytest.mark.parametrize(("forgets", "taken"), [(0, [30]), (1, [29, 30]), (5, [25, 26, 27, 28, 29, 30])])
def test_a_session_that_cannot_forget_enough_is_not_taken_over(forgets: int, taken: list[int]) -> None:
    sessions = PrefixCache(forgets=forgets)
    assert sessions.park(parked(1, count(30)))
    shared = [length for length in range(LEAST_PREFIX, 31) if best(sessions, np.append(count(length), 99)) is not None]
    assert shared == taken


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_a_look_at_all_parked_sessions_would_find(seed: int) -> None:
    draw = random.Random(seed)

    def tokens() -> Ids:
        return np.array([draw.choice((1, 2))] * LEAST_PREFIX + draw.choices((1, 2), k=draw.randint(0, 6)), np.int32)

    cache, held = PrefixCache(), dict[int, Parked]()
    for number in range(60):
        session = Parked(number, (), tokens(), 0, 0.0, draw.choice("ab"))
        assert cache.park(session)
        held[number] = session
        if draw.random() < 0.5:
            gone = draw.choice(list(held))
            assert cache.drop(gone)
            del held[gone]
    for _ in range(30):
        prompt, account = tokens(), draw.choice("ab")
        alone = []
        for session in held.values():
            one = PrefixCache()
            one.park(session)
            alone += [match for match in [one.best(prompt, account=account)] if match]
        expected = max(alone, key=lambda match: (match.held, -len(match.session.tokens)), default=None)
        found = cache.best(prompt, account=account)
        assert (found and found.session.number) == (expected and expected.session.number)
