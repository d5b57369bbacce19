"""PostgreSQL is killed and started again, in the midst of what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from kit import postgres
from kit.runner import run
from potluck.coordinator.members.books import Books
from potluck.coordinator.members.desk import Desk
from potluck.coordinator.members.door import StoreDoor
from potluck.coordinator.members.keys import Keys
from potluck.coordinator.members.ledger import Account
from potluck.coordinator.members.lookup import Lookup
from potluck.coordinator.members.store import Store, open_store
from potluck.errors import StoreError

pytestmark = pytest.mark.postgres

ANNA = b"a" * 32


@pytest.fixture
def shared(postgres_url: str) -> Iterator[Store]:
    store = open_store(postgres_url)
    yield store
    store.close()


@pytest.fixture
def server(postgres_server: postgres.Server) -> Iterator[postgres.Server]:
    """It runs again for the next test, whatever becomes of this one."""
    yield postgres_server
    if not postgres_server.is_running():
        postgres_server.start()


def test_what_cannot_reach_its_server_says_so(shared: Store, server: postgres.Server) -> None:
    keys = Keys(shared)
    secret, _ = keys.create("anna")
    server.kill()
    for _ in range(2):  # with a connection that was there, and without
        with pytest.raises(StoreError, match="The database failed: ") as caught:
            keys.find(secret)
        assert caught.value.is_away
    with pytest.raises(StoreError) as caught:
        keys.create("ben")
    assert caught.value.is_away
    server.start()
    assert keys.find(secret) is not None


def test_requests_wait_for_a_server_that_starts_again_and_a_revoked_key_does_not_pass(
    shared: Store, server: postgres.Server, clock
) -> None:
    desk, keys = Desk("keys", 4), Keys(shared)
    lookup = Lookup(keys, desk, clock)
    secret, _ = keys.create("anna")
    gone, key = keys.create("ben")
    keys.revoke(key.id)

    async def test() -> None:
        assert await lookup.find(secret, "192.0.2.1") is not None
        server.kill()
        asked = [asyncio.create_task(lookup.find(each, "192.0.2.1")) for each in [secret, gone] * 4]
        await asyncio.to_thread(server.start)
        found = await asyncio.gather(*asked)
        assert [None if each is None else each.account for each in found] == ["anna", None] * 4

    run(test())
    desk.close()


def test_no_credits_are_lost_or_doubled_when_the_server_is_killed(
    shared: Store, server: postgres.Server, clock
) -> None:
    StoreDoor(shared, None, clock).admit(ANNA, "anna", "")
    before = Books(shared).ledger.account("killed").earned

    async def test() -> None:
        books, earned = Books(shared, every_s=0.001), 0
        async with books.kept():
            for _ in range(3):
                for _ in range(50):
                    books.ledger.earn(ANNA, "killed", 1)
                    books.ledger.settle(ANNA)
                    earned += 1
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(server.kill)
                books.ledger.earn(ANNA, "killed", 1)
                books.ledger.settle(ANNA)
                earned += 1
                await asyncio.to_thread(server.start)
        await books.write()
        assert Books(shared).ledger.account("killed") == books.ledger.account("killed")
        assert books.ledger.account("killed") == Account(before + earned, 0)

    run(test())
