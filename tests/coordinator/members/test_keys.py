import pytest

from potluck.coordinator.members.keys import PER_MINUTE, Keys
from potluck.coordinator.members.store import KeyRow, Store
from potluck.errors import RequestError


def test_a_key_is_found_by_its_secret_alone(store: Store, clock) -> None:
    keys = Keys(store, clock)
    secret, key = keys.create("anna")
    other, _ = keys.create("ben", admin=True, per_minute=None)
    assert secret.startswith("pk-")
    assert len(secret) >= 25
    assert keys.find(secret) == key
    assert (key.account, key.admin, key.per_minute, key.created) == ("anna", False, PER_MINUTE, clock.now)
    found = keys.find(other)
    assert found is not None
    assert (found.account, found.admin, found.per_minute) == ("ben", True, None)
    for wrong in ("", "pk-", key.id, secret[:-1], secret.upper(), f"{secret} "):
        assert keys.find(wrong) is None


def test_a_revoked_key_is_not_found_and_stays_in_the_list(store: Store, clock) -> None:
    keys, elsewhere = Keys(store, clock), Keys(store, clock)
    secret, key = keys.create("anna")
    assert elsewhere.find(secret) is not None
    keys.revoke(key.id)
    assert keys.find(secret) is None
    assert elsewhere.find(secret) is None
    assert [(each.id, each.revoked) for each in keys.all()] == [(key.id, True)]
    with pytest.raises(RequestError, match="There is no API key 'none'"):
        keys.revoke("none")


def test_a_key_may_be_limited_to_some_models(store: Store, clock) -> None:
    keys = Keys(store, clock)
    secret, key = keys.create("anna", models=["large", "small:q4"])
    assert key.models == ["large", "small:q4"]
    found = keys.find(secret)
    assert found is not None
    assert found.models == ["large", "small:q4"]
    unlimited, _ = keys.create("ben")
    assert keys.find(unlimited) is not None
    assert [each.models for each in keys.all()] == [["large", "small:q4"], []]


def test_the_secret_is_not_stored(store: Store, clock) -> None:
    secret, key = Keys(store, clock).create("anna")
    with store.begin() as session:
        row = session.get(KeyRow, key.id)
        assert row is not None
        stored = [str(getattr(row, column.name)) for column in KeyRow.__table__.columns]
    assert not any(secret.removeprefix("pk-") in value for value in stored)
