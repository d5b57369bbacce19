import re

import pytest
from sqlalchemy.orm import Session

from potluck.coordinator.members.invites import Invites
from potluck.coordinator.members.store import InviteRow, Store
from potluck.errors import Refused, RequestError

FINGERPRINT = "0123456789abcdef"


@pytest.fixture
def invites(store: Store, clock) -> Invites:
    return Invites(store, FINGERPRINT, clock)


def redeem(store: Store, invites: Invites, text: str) -> None:
    with store.begin() as session:
        invites.redeem(session, text)


def test_an_invite_is_a_secret_and_the_coordinators_fingerprint(invites: Invites) -> None:
    text, _ = invites.create()
    assert re.fullmatch(rf"[\w-]{{22}}\.{FINGERPRINT}", text)
    assert text != invites.create()[0]


def test_an_invite_for_two_is_used_up_by_two(store: Store, invites: Invites) -> None:
    text, _ = invites.create(uses=2)
    redeem(store, invites, text)
    redeem(store, invites, text)
    with pytest.raises(Refused, match="used up"):
        redeem(store, invites, text)


def test_an_invite_for_many_works_until_it_expires(store: Store, invites: Invites, clock) -> None:
    text, invite = invites.create(lifetime_s=60)
    assert invite.expires == clock.now + 60
    clock.now += 59
    for _ in range(5):
        redeem(store, invites, text)
    clock.now += 1
    with pytest.raises(Refused, match="expired"):
        redeem(store, invites, text)


def test_a_revoked_invite_and_one_that_never_was_are_refused(store: Store, invites: Invites) -> None:
    text, invite = invites.create()
    invites.revoke(invite.id)
    with pytest.raises(Refused, match="revoked"):
        redeem(store, invites, text)
    for wrong in ("", "x" * 22, text[1:], invite.id):
        with pytest.raises(Refused, match="not known here"):
            redeem(store, invites, wrong)
    with pytest.raises(RequestError, match="There is no invite 'none'"):
        invites.revoke("none")


def test_the_list_tells_everything_but_the_secret(store: Store, invites: Invites, clock) -> None:
    text, first = invites.create(uses=3, account="anna")
    clock.now += 1
    _, second = invites.create()
    redeem(store, invites, text)
    listed = invites.all()
    assert [invite.id for invite in listed] == [first.id, second.id]
    assert (listed[0].account, listed[0].uses_left, listed[0].expires, listed[0].revoked) == ("anna", 2, None, False)
    with store.begin() as session:
        row = session.get(InviteRow, first.id)
        assert row is not None
        stored = [str(getattr(row, column.name)) for column in InviteRow.__table__.columns]
    assert not any(text[:22] in value for value in [*stored, str(listed)])


def test_only_an_invite_with_which_nodes_can_join_is_found(store: Store, invites: Invites, clock) -> None:
    text, invite = invites.create(uses=1, lifetime_s=60)
    assert invites.find(text) == invite
    assert invites.find(text.replace(FINGERPRINT, "another")) is None
    assert invites.find("guessed." + FINGERPRINT) is None
    assert invites.find("") is None
    redeem(store, invites, text)
    assert invites.find(text) is None
    other, _ = invites.create(lifetime_s=60)
    clock.now += 60
    assert invites.find(other) is None
    revoked, invite = invites.create()
    invites.revoke(invite.id)
    assert invites.find(revoked) is None


@pytest.mark.parametrize("secret", ["", "x" * 21, "x" * 23, "x" * 21 + "é", "x" * 21 + "\ud800", "x" * 22 + "\n"])
def test_what_cannot_be_an_invite_is_not_looked_up(invites: Invites, secret: str) -> None:
    with Session() as nowhere:  # it has no database
        for look in (invites.check, invites.redeem):
            with pytest.raises(Refused, match="not known here"):
                look(nowhere, secret)
    assert invites.find(f"{secret}.{FINGERPRINT}") is None
