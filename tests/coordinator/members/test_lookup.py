"""Keys that are looked up: how often the database is asked, and by whom."""

import asyncio

import pytest

from kit.runner import run
from potluck.coordinator.members import lookup as module
from potluck.coordinator.members.desk import Desk
from potluck.coordinator.members.keys import Key, Keys
from potluck.coordinator.members.lookup import GUESSES, Lookup
from potluck.coordinator.members.store import Store
from potluck.errors import RequestError


class Counting(Keys):
    """Keys that note what was asked of the database."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.asked: list[str] = []

    def find(self, secret: str) -> Key | None:
        self.asked.append(secret)
        return super().find(secret)


@pytest.fixture
def keys(store: Store) -> Counting:
    return Counting(store)


@pytest.fixture
def lookup(keys: Counting, clock) -> Lookup:
    return Lookup(keys, Desk("keys"), clock)


def guess(number: int) -> str:
    """A wrong key that has the form of a right one."""
    return f"pk-{number:032}"


async def tried(lookup: Lookup, secret: str, address: str = "192.0.2.1") -> str:
    """What comes of a request: the account, "wrong" or the refusal's sentence."""
    try:
        key = await lookup.find(secret, address)
    except RequestError as error:
        return str(error) if error.status == 429 and error.retry_s else "another error"
    return "wrong" if key is None else key.account


def test_guesses_at_once_are_no_more_than_guesses_one_by_one(lookup: Lookup, keys: Counting, clock) -> None:
    async def test() -> None:
        told = await asyncio.gather(*(tried(lookup, guess(number)) for number in range(1000)))
        assert told.count("wrong") == len(keys.asked) == GUESSES
        assert {*told} == {"wrong", "More than 30 requests a minute came with wrong keys from this address."}
        assert await tried(lookup, guess(0), "192.0.2.2") == "wrong"
        clock.now += 60 / GUESSES
        assert [await tried(lookup, guess(number)) for number in range(2)].count("wrong") == 1

    run(test())


def test_a_good_key_is_found_beside_a_guesser_once_it_was_good_anywhere(lookup: Lookup, keys: Counting) -> None:
    other_coordinator = Keys(keys._store)
    used, other = (other_coordinator.create(name)[0] for name in ("anna", "ben"))

    async def test() -> None:
        assert await tried(lookup, used, "192.0.2.9") == "anna"
        await asyncio.gather(*(tried(lookup, guess(number)) for number in range(GUESSES)))
        keys.asked.clear()
        assert await tried(lookup, other) != "ben"
        assert keys.asked == []
        assert await tried(lookup, keys.create("cleo")[0]) == "cleo"  # made here, so it is known
        keys.asked.clear()
        assert await asyncio.gather(*(tried(lookup, used) for _ in range(100))) == ["anna"] * 100
        assert keys.asked == [used] * 100  # each time, because it may have been revoked

    run(test())


def test_after_a_start_the_keys_of_the_database_are_known(keys: Counting, clock) -> None:
    good, (gone, revoked) = keys.create("anna")[0], keys.create("ben")
    keys.revoke(revoked.id)
    lookup = Lookup(Counting(keys._store), Desk("keys"), clock)

    async def test() -> None:
        await asyncio.gather(*(tried(lookup, guess(number)) for number in range(GUESSES)))
        assert await tried(lookup, good) == "anna"
        assert (await tried(lookup, gone)).startswith("More than 30 requests")

    run(test())


def test_a_revoked_key_is_wrong_at_once_and_then_a_guess(lookup: Lookup, keys: Counting) -> None:
    secret, key = keys.create("anna")

    async def test() -> None:
        assert await tried(lookup, secret) == "anna"
        keys.revoke(key.id)
        told = [await tried(lookup, secret) for _ in range(GUESSES + 5)]
        assert told[:GUESSES] == ["wrong"] * GUESSES
        assert "wrong" not in told[GUESSES:]

    run(test())


def test_many_who_begin_at_once_behind_one_address_are_all_let_in(lookup: Lookup, keys: Counting) -> None:
    secrets = [keys.create(f"account {number}")[0] for number in range(2 * GUESSES)]

    async def test() -> None:
        told = await asyncio.gather(*(tried(lookup, secret) for secret in secrets * 2))
        assert told == [f"account {number}" for number in range(2 * GUESSES)] * 2

    run(test())


def test_a_key_that_asks_too_often_no_longer_reaches_the_database(lookup: Lookup, keys: Counting, clock) -> None:
    secret, _ = keys.create("anna", per_minute=2)

    async def test() -> None:
        told = [await tried(lookup, secret) for _ in range(10)]
        assert told == ["anna"] * 2 + ["More than 2 requests a minute came with this key."] * 8
        assert len(keys.asked) == 2
        clock.now += 30
        assert await tried(lookup, secret) == "anna"

    run(test())


def test_only_the_digests_of_so_many_good_keys_are_remembered(
    lookup: Lookup, keys: Counting, monkeypatch: pytest.MonkeyPatch, clock
) -> None:
    monkeypatch.setattr(module, "_MOST_GOOD", 3)
    secrets = [keys.create("anna")[0] for _ in range(5)]
    lookup = Lookup(keys, Desk("keys"), clock)
    assert len(lookup._good) == 3

    async def test() -> None:
        for secret in [*secrets, guess(1), guess(2)]:
            await tried(lookup, secret)
        assert len(lookup._good) == 3
        assert not [secret for secret in secrets if lookup._good.get(secret)]
        assert not lookup._lines

    run(test())


@pytest.mark.parametrize(
    "text", ["", "pk-", "pk-guessed", f"pk-{'a' * 31}", f"pk-{'a' * 33}", f"pk-{'a' * 31}.", f"pk-{'ü' * 32}", "none"]
)
def test_what_cannot_be_a_key_never_reaches_the_database(store: Store, text: str) -> None:
    store.close()  # it would raise
    keys = Keys(store)
    keys._store = None  # type: ignore[assignment]
    assert keys.find(text) is None
