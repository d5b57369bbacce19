"""The owner's part of the HTTP API: invites, API keys and nodes. `access` lets only admin keys come here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from potluck.coordinator.gateway.moderation import Moderation
from potluck.coordinator.http.office import Office
from potluck.coordinator.http.requests import described, parse
from potluck.coordinator.members.invites import Invite
from potluck.coordinator.members.keys import PER_MINUTE, Key
from potluck.coordinator.members.members import Member
from potluck.errors import RequestError

_LONGEST_NAME = 64
_MAX_BODY = 1 << 16
_MOST = 10**9
"""Of whatever is counted: databases hold no number of more than 64 bits."""

Name = Annotated[str, described(minLength=1, maxLength=_LONGEST_NAME)]
"""Of an account."""


class NewInvite(Struct, frozen=True, forbid_unknown_fields=True):
    """uses: None: any number. lifetime_s: None: for ever. account: see `Invite`."""

    uses: Annotated[int | None, described(minimum=1, maximum=_MOST)] = None
    lifetime_s: Annotated[float | None, described(exclusiveMinimum=0)] = None
    account: Name | None = None


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """per_minute: requests; 0: any number."""

    account: Name
    admin: bool = False
    per_minute: Annotated[int, described(minimum=0, maximum=_MOST)] = PER_MINUTE


class Marks(Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a node; None: nothing."""

    trusted: bool | None = None
    revoked: bool | None = None


class MadeInvite(Struct, frozen=True):
    """url: the coordinator's. text: what to give away behind its `#`; it is shown this once."""

    url: str
    text: str
    invite: Invite


class MadeKey(Struct, frozen=True):
    """secret: it is shown this once."""

    secret: str
    key: Key


class Revoked(Struct, frozen=True):
    """nodes: those that came by the invite. cut: whether they were revoked as well."""

    invite: Invite
    nodes: list[Member]
    cut: bool


@dataclass(frozen=True)
class Admin:
    """The store is asked on threads: it may be slow."""

    office: Office
    moderation: Moderation

    def routes(self) -> list[Route]:
        return [
            Route("/v1/admin/invites", self.invites, methods=["GET", "POST"]),
            Route("/v1/admin/invites/{id}", self.revoke_invite, methods=["DELETE"]),
            Route("/v1/admin/keys", self.keys, methods=["GET", "POST"]),
            Route("/v1/admin/keys/{id}", self.revoke_key, methods=["DELETE"]),
            Route("/v1/admin/nodes", self.list_nodes),
            Route("/v1/admin/nodes/{key}", self.mark_node, methods=["POST"]),
        ]

    async def invites(self, request: Request) -> Response:
        return await (self.create_invite(request) if request.method == "POST" else self.list_invites())

    async def keys(self, request: Request) -> Response:
        return await (self.create_key(request) if request.method == "POST" else self.list_keys())

    async def list_invites(self) -> Response:
        return _json({"invites": await asyncio.to_thread(self.office.invites.all)})

    async def create_invite(self, request: Request) -> Response:
        asked = parse(await _body(request), NewInvite)
        if asked.uses is not None and not 1 <= asked.uses <= _MOST:
            raise RequestError(f"An invite is for 1 to {_MOST} uses.", param="uses")
        if asked.lifetime_s is not None and asked.lifetime_s <= 0:
            raise RequestError("An invite must live for a while.", param="lifetime_s")
        account = None if asked.account is None else _checked_name(asked.account)
        text, invite = await asyncio.to_thread(
            self.office.invites.create, uses=asked.uses, lifetime_s=asked.lifetime_s, account=account
        )
        return _json(MadeInvite(self.office.url, text, invite))

    async def revoke_invite(self, request: Request) -> Response:
        """Nobody new comes by it; with `?nodes=true` those that came are revoked, too, and cut at once."""
        number, cut = _named(request, "id"), request.query_params.get("nodes") == "true"
        invite = await asyncio.to_thread(self.office.invites.revoke, number)
        nodes = await asyncio.to_thread(self.office.members.by_invite, number)
        if cut:
            nodes = [await self._mark(node.key, Marks(revoked=True)) for node in nodes]
        return _json(Revoked(invite, nodes, cut))

    async def list_keys(self) -> Response:
        return _json({"keys": await asyncio.to_thread(self.office.keys.all)})

    async def create_key(self, request: Request) -> Response:
        asked = parse(await _body(request), NewKey)
        if not 0 <= asked.per_minute <= _MOST:
            raise RequestError(f"per_minute must lie between 0 and {_MOST}.", param="per_minute")
        account, limit = _checked_name(asked.account), asked.per_minute or None
        secret, key = await asyncio.to_thread(self.office.keys.create, account, admin=asked.admin, per_minute=limit)
        return _json(MadeKey(secret, key))

    async def revoke_key(self, request: Request) -> Response:
        return _json(await asyncio.to_thread(self.office.keys.revoke, _named(request, "id")))

    async def list_nodes(self, _: Request) -> Response:
        return _json({"nodes": await asyncio.to_thread(self.office.members.all)})

    async def mark_node(self, request: Request) -> Response:
        """Trust it or not; revoke it, which cuts it at once, or let it come again."""
        return _json(await self._mark(_named(request, "key"), parse(await _body(request), Marks)))

    async def _mark(self, key: str, marks: Marks) -> Member:
        member = await asyncio.to_thread(self.office.members.mark, key, trusted=marks.trusted, revoked=marks.revoked)
        if member.revoked:
            self.moderation.cut(bytes.fromhex(key), "The swarm's owner has revoked this node.")
        elif marks.revoked is False:
            self.moderation.pardon(bytes.fromhex(key))
        if marks.trusted is not None:
            self.moderation.trust(bytes.fromhex(key), trusted=member.trusted)
        return member


def _named(request: Request, parameter: str) -> str:
    """What the path names."""
    name: str = request.path_params[parameter]
    if "\0" in name:  # PostgreSQL refuses to look for it
        raise RequestError(f"Nothing has the name {name!r}.", status=404)
    return name


def _checked_name(account: str) -> str:
    if not account.isprintable() or not 1 <= len(account) <= _LONGEST_NAME:
        raise RequestError(f"An account's name is up to {_LONGEST_NAME} printable characters.", param="account")
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
