from concurrent.futures import ThreadPoolExecutor

import pytest

from potluck.coordinator.members.door import STRANGER, Entry, OpenDoor, StoreDoor
from potluck.coordinator.members.invites import Invites
from potluck.coordinator.members.members import QUARANTINE_S, Members
from potluck.coordinator.members.store import Store
from potluck.errors import Refused, RequestError
from potluck.wire.identity import fingerprint

ANNA, BEN = b"a" * 32, b"b" * 32


@pytest.fixture
def invites(store: Store, clock) -> Invites:
    return Invites(store, "0" * 16, clock)


@pytest.fixture
def members(store: Store, clock) -> Members:
    return Members(store, clock)


@pytest.fixture
def door(store: Store, invites: Invites, clock) -> StoreDoor:
    """Of a private swarm."""
    return StoreDoor(store, invites, clock)


def test_a_private_swarm_takes_nobody_without_an_invite(door: StoreDoor) -> None:
    with pytest.raises(Refused, match="private: ask its owner for an invite"):
        door.admit(ANNA, "anna", "")
    with pytest.raises(Refused, match="not known here"):
        door.admit(ANNA, "anna", "guessed")


def test_who_was_invited_once_comes_again_without_using_it_up(door: StoreDoor, invites: Invites, members) -> None:
    text, invite = invites.create(uses=1)
    assert door.admit(ANNA, "anna", text) == Entry(fingerprint(ANNA), trusted=False)
    assert door.admit(ANNA, "anna's other name", text) == door.admit(ANNA, "anna", "")
    with pytest.raises(Refused, match="used up"):
        door.admit(BEN, "ben", text)
    [member] = members.by_invite(invite.id)
    assert (member.key, member.name, member.account) == (ANNA.hex(), "anna", fingerprint(ANNA))


def test_who_is_refused_uses_nothing_up(door: StoreDoor, invites: Invites, members: Members) -> None:
    text, _ = invites.create(uses=1)
    door.admit(ANNA, "anna", text)
    members.mark(ANNA.hex(), revoked=True)
    spare, _ = invites.create(uses=1)
    with pytest.raises(Refused, match="revoked this node"):
        door.admit(ANNA, "anna", spare)
    door.admit(BEN, "ben", spare)


def test_the_last_use_goes_to_one_of_many_at_once(door: StoreDoor, invites: Invites, members: Members) -> None:
    text, _ = invites.create(uses=3)

    def come(number: int) -> bool:
        try:
            door.admit(bytes([number]) * 32, "x", text)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(come, range(16))) == 3
    assert len(members.all()) == 3


def test_whoever_is_refused_or_only_asks_has_written_nothing(
    door: StoreDoor, store: Store, invites: Invites, monkeypatch
) -> None:
    good, _ = invites.create(uses=1)
    revoked, invite = invites.create()
    invites.revoke(invite.id)
    used, _ = invites.create(uses=1)
    door.admit(BEN, "ben", used)
    monkeypatch.setattr(store, "begin", lambda: pytest.fail("This was a transaction that writes."))
    for wrong in ("", "guessed", "x" * 22, "x" * 22 + ".0", good[1:], revoked, used):
        for joins in (True, False):
            with pytest.raises(Refused):
                door.admit(ANNA, "anna", wrong, joins)
    assert door.admit(ANNA, "anna", good, joins=False) == Entry(fingerprint(ANNA), trusted=False)
    assert StoreDoor(store, None).admit(ANNA, "anna", "", joins=False) == Entry(fingerprint(ANNA), trusted=False)


def test_nodes_earn_for_the_account_of_their_invite(door: StoreDoor, invites: Invites, members: Members) -> None:
    text, _ = invites.create(account="anna")
    assert door.admit(ANNA, "one", text).account == door.admit(BEN, "two", text).account == "anna"
    assert [member.name for member in members.of_account("anna")] == ["one", "two"]


def test_a_public_swarm_takes_everyone_but_the_revoked(store: Store, members: Members, clock) -> None:
    door = StoreDoor(store, None, clock)
    assert door.admit(ANNA, "anna", "") == Entry(fingerprint(ANNA), trusted=False)
    members.mark(ANNA.hex(), revoked=True)
    with pytest.raises(Refused, match="revoked"):
        door.admit(ANNA, "anna", "")
    members.mark(ANNA.hex(), revoked=False, trusted=True)
    assert door.admit(ANNA, "anna", "") == Entry(fingerprint(ANNA), trusted=True)


def test_a_quarantined_node_waits_outside(door: StoreDoor, invites: Invites, members: Members, clock) -> None:
    door.admit(ANNA, "anna", invites.create()[0])
    members.quarantine(ANNA.hex(), "Its rows were wrong.")
    members.quarantine("unknown", "Its rows were wrong.")
    with pytest.raises(Refused, match="quarantine: Its rows were wrong"):
        door.admit(ANNA, "anna", "")
    clock.now += QUARANTINE_S
    door.admit(ANNA, "anna", "")


def test_the_owner_ends_a_quarantine(door: StoreDoor, invites: Invites, members: Members) -> None:
    door.admit(ANNA, "anna", invites.create()[0])
    members.quarantine(ANNA.hex(), "Its rows were wrong.")
    assert members.mark(ANNA.hex(), revoked=False).quarantine == ""
    door.admit(ANNA, "anna", "")


def test_a_node_that_never_was_here_cannot_be_marked(members: Members) -> None:
    with pytest.raises(RequestError, match="was ever here"):
        members.mark(ANNA.hex())


def test_the_open_door_remembers_nobody() -> None:
    assert OpenDoor().admit(ANNA, "anna", "") == STRANGER


def test_whoever_only_asks_uses_nothing_up(door: StoreDoor, invites: Invites, members: Members) -> None:
    text, _ = invites.create(uses=1)
    for _ in range(2):
        assert door.admit(ANNA, "anna", text, joins=False) == Entry(fingerprint(ANNA), trusted=False)
    assert (invites.all()[0].uses_left, members.all()) == (1, [])
    with pytest.raises(Refused, match="not known here"):
        door.admit(ANNA, "anna", "guessed", joins=False)
    door.admit(ANNA, "anna", text)
    [before] = members.all()
    door.admit(ANNA, "another name", "", joins=False)
    assert members.all() == [before]
