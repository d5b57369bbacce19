"""The owner's part of the HTTP API: invites, API keys and nodes. `auth` lets only admin keys use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from potluck.coordinator.gateway.moderation import Moderation
from potluck.coordinator.http.office import Office
from potluck.coordinator.http.parsing import parse, refused_with
from potluck.coordinator.members.invites import Invite
from potluck.coordinator.members.keys import PER_MINUTE, Key
from potluck.coordinator.members.members import Member
from potluck.errors import RequestError

_LONGEST_NAME = 64
_LONGEST_MODEL = 255
_MOST_MODELS = 64
_MAX_BODY = 1 << 16
_MOST = 10**9
"""The largest count, because databases hold no numbers of more than 64 bits."""

_NAME = f"An account's name is up to {_LONGEST_NAME} printable characters."
_Name = Annotated[str, refused_with(_NAME, min_length=1, max_length=_LONGEST_NAME)]
_Uses = Annotated[int, refused_with(f"An invite is for 1 to {_MOST} uses.", ge=1, le=_MOST)]
_Lifetime = Annotated[float, refused_with("An invite's lifetime must be positive.", gt=0)]
_MODELS = f"models takes up to {_MOST_MODELS} names of up to {_LONGEST_MODEL} printable characters."
_Models = Annotated[
    list[Annotated[str, refused_with(_MODELS, min_length=1, max_length=_LONGEST_MODEL)]],
    refused_with(_MODELS, max_length=_MOST_MODELS),
]
_Rate = Annotated[int, refused_with(f"per_minute must lie between 0 and {_MOST}.", ge=0, le=_MOST)]


class NewInvite(Struct, frozen=True, forbid_unknown_fields=True):
    """The wish for an invite. uses: None means any number. lifetime_s: None means forever. account: see `Invite`."""

    uses: _Uses | None = None
    lifetime_s: _Lifetime | None = None
    account: _Name | None = None


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """The wish for an API key. per_minute: requests; 0 means any number. models: those that it may ask; empty: all."""

    account: _Name
    admin: bool = False
    per_minute: _Rate = PER_MINUTE
    models: _Models = []


class Marks(Struct, frozen=True, forbid_unknown_fields=True):
    """The changes to a node; None changes nothing."""

    trusted: bool | None = None
    revoked: bool | None = None


class MadeInvite(Struct, frozen=True):
    """A new invite. url: the coordinator's. text: what to give away after the URL's `#`; it is shown only now."""

    url: str
    text: str
    invite: Invite


class MadeKey(Struct, frozen=True):
    """A new API key. secret: it is shown only now."""

    secret: str
    key: Key


class Revoked(Struct, frozen=True):
    """A revoked invite. nodes: those that joined with it. cut: whether they were revoked as well."""

    invite: Invite
    nodes: list[Member]
    cut: bool


@dataclass(frozen=True)
class Admin:
    """The owner's endpoints. The store is asked at the owner's desk, because it may be slow.

    tell: tells other coordinators of the fleet how a node is marked.
    """

    office: Office
    moderation: Moderation
    tell: Callable[[bytes, Marks], None] = lambda key, marks: None

    async def list_invites(self, _: Request) -> Response:
        return _json({"invites": await self.office.desks.owner.ask(self.office.invites.all)})

    async def create_invite(self, request: Request) -> Response:
        asked = parse(await _body(request), NewInvite)
        account = None if asked.account is None else _checked_name(asked.account)
        text, invite = await self.office.desks.owner.ask(
            self.office.invites.create, uses=asked.uses, lifetime_s=asked.lifetime_s, account=account
        )
        return _json(MadeInvite(self.office.url, text, invite))

    async def revoke_invite(self, request: Request) -> Response:
        """Stop new nodes from joining with the invite. With `?nodes=true`, also revoke those that did, and cut them off
        at once.
        """
        number, cut = _named(request, "id"), request.query_params.get("nodes") == "true"
        invite = await self.office.desks.owner.ask(self.office.invites.revoke, number)
        nodes = await self.office.desks.owner.ask(self.office.members.by_invite, number)
        if cut:
            nodes = [await self._mark(node.key, Marks(revoked=True)) for node in nodes]
        return _json(Revoked(invite, nodes, cut))

    async def list_keys(self, _: Request) -> Response:
        return _json({"keys": await self.office.desks.owner.ask(self.office.keys.all)})

    async def create_key(self, request: Request) -> Response:
        asked = parse(await _body(request), NewKey)
        account, limit = _checked_name(asked.account), asked.per_minute or None
        if not all(map(str.isprintable, asked.models)):
            raise RequestError(_MODELS, param="models")
        if asked.admin and asked.models:
            raise RequestError("An admin key may make other keys, so it cannot be limited to models.", param="models")
        secret, key = await self.office.desks.owner.ask(
            self.office.keys.create, account, admin=asked.admin, per_minute=limit, models=asked.models
        )
        return _json(MadeKey(secret, key))

    async def revoke_key(self, request: Request) -> Response:
        return _json(await self.office.desks.owner.ask(self.office.keys.revoke, _named(request, "id")))

    async def list_nodes(self, _: Request) -> Response:
        return _json({"nodes": await self.office.desks.owner.ask(self.office.members.all)})

    async def mark_node(self, request: Request) -> Response:
        """Trust a node or not; revoke it, which cuts it off at once, or readmit it."""
        return _json(await self._mark(_named(request, "key"), parse(await _body(request), Marks)))

    async def _mark(self, key: str, marks: Marks) -> Member:
        member = await self.office.desks.owner.ask(
            self.office.members.mark, key, trusted=marks.trusted, revoked=marks.revoked
        )
        if member.revoked:
            self.moderation.cut(bytes.fromhex(key), "The swarm's owner has revoked this node.")
        elif marks.revoked is False:
            self.moderation.pardon(bytes.fromhex(key))
        if marks.trusted is not None:
            self.moderation.trust(bytes.fromhex(key), trusted=member.trusted)
        self.tell(bytes.fromhex(key), marks)
        return member


def _named(request: Request, parameter: str) -> str:
    """The part of the path with this name."""
    name: str = request.path_params[parameter]
    if "\0" in name:  # PostgreSQL refuses to look for it
        raise RequestError(f"There is nothing named {name!r}.", status=404)
    return name


def _checked_name(account: str) -> str:
    if not account.isprintable():
        raise RequestError(_NAME, param="account")
    return account


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise RequestError(f"The request is longer than {_MAX_BODY} bytes.", status=413)
    return body


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
