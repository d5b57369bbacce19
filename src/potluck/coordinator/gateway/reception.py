"""The coordinator's side of the handshake: it proves its own key, and learns whom it admits."""

from __future__ import annotations

import asyncio
import secrets

from potluck.coordinator.members.desk import Desk
from potluck.coordinator.members.door import Door, Entry
from potluck.coordinator.members.ledger import Ledger
from potluck.errors import Refused, WireError
from potluck.types import LONGEST_LABEL, is_label
from potluck.wire import handshake
from potluck.wire.codec import check_version, decode_from_node, encode
from potluck.wire.identity import Identity
from potluck.wire.link import Link
from potluck.wire.messages import Greeting, Hello
from potluck.wire.origin import origin

_GREETING_S = 5.0
"""Seconds in which a new socket must say something."""


_SHOWN_DIGITS = 16


class Reception:
    """Receives nodes. url: the one that nodes must have dialled; empty if the coordinator does not know its own.

    is_open: whether the door lets strangers in. ledger: gets to know what is pending for nodes that join.
    """

    def __init__(
        self,
        identity: Identity,
        door: Door,
        url: str = "",
        desk: Desk | None = None,
        *,
        is_open: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        self._identity = identity
        self._desk = desk or Desk("door")
        self._door = door
        self._url = url
        self.is_open = is_open
        self._ledger = ledger or Ledger()

    async def meet(self, link: Link) -> tuple[Hello, Entry]:
        """Lead a link from its first frame to a proven hello of a node that the door admits.

        Raises WireError, IdentityError or Refused with the reason, and StoreError.
        """
        frame = await _greeting(link)
        check_version(frame)
        greeting, _ = decode_from_node(frame)
        assert isinstance(greeting, Greeting)  # check_version has seen to it
        answer = handshake.challenge(self._identity, greeting, secrets.token_bytes(handshake.NONCE_BYTES))
        await link.send(encode(answer))
        hello, _ = decode_from_node(await link.receive())
        if not isinstance(hello, Hello):
            raise WireError(f"The challenge was answered with {type(hello).__name__}.")
        handshake.check_hello(hello, greeting, answer)
        self._check_url(hello.url)
        if not all(map(is_label, (hello.name, hello.software, hello.model))):  # before the door, which keeps the name
            raise Refused(f"A node's name is up to {LONGEST_LABEL} printable characters, and so are its marks.")
        reads_all = hello.guesser is not None and self.is_open
        # The door gets to know it, so that the owner can trust it.
        joins = hello.joins or reads_all
        entry = await self._desk.ask(self._door.admit, hello.key, hello.name, hello.invite, joins)
        if hello.joins:  # at once, because what is stored in the meantime would be missing
            self._ledger.adopt(hello.key, entry.account, entry.pending)
        if reads_all and not entry.trusted:
            raise Refused(
                "A node that guesses reads every answer, so the owner of an open swarm must trust it first "
                f"(potluck node trust URL {hello.key.hex()[:_SHOWN_DIGITS]})."
            )
        return hello, entry

    def _check_url(self, dialled: str) -> None:
        """Raises Refused for a proof that was made for another server, because it must not open this one."""
        if self._url and origin(dialled) != origin(self._url):
            raise Refused(f"You dialled {origin(dialled)}, but this coordinator is {self._url}: join with that URL.")


async def _greeting(link: Link) -> bytes:
    """The first frame of a link. Raises WireError when none comes in time."""
    try:
        async with asyncio.timeout(_GREETING_S):
            return await link.receive()
    except TimeoutError as error:
        raise WireError(f"No greeting came within {_GREETING_S:.0f} s.") from error
