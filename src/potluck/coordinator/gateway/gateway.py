"""The coordinator's end of the web-sockets: a node's stay, from its greeting to the end of its link."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial

from starlette.types import Receive, Scope, Send

from potluck.coordinator.gateway.driver import Driver
from potluck.coordinator.gateway.entrance import Entrance
from potluck.coordinator.gateway.frames import Frames
from potluck.coordinator.gateway.guessing import Guessers, serve_guesser
from potluck.coordinator.gateway.lookout import Lookout
from potluck.coordinator.gateway.outboxes import Outboxes
from potluck.coordinator.gateway.socket import ServerLink, farewell
from potluck.coordinator.gateway.stays import Stays
from potluck.coordinator.gateway.tickets import Tickets
from potluck.coordinator.gateway.welcomes import Welcomes
from potluck.coordinator.members.limits import Limits
from potluck.coordinator.relay.relay import Relay
from potluck.coordinator.swarm.events import Joined, Left
from potluck.coordinator.swarm.node import called
from potluck.coordinator.swarm.swarm import Swarm
from potluck.errors import IdentityError, LinkClosed, Refused, StoreError, WireError
from potluck.webserver.guard import note_proven, vouch_for
from potluck.wire.link import BundledLink, Link
from potluck.wire.messages import Hello

log = logging.getLogger(__name__)

_MOST_REFUSALS = 60
"""The most refusals of strangers that are logged in a minute."""


class Gateway:
    """Owns the links. `entrance` finds out who is there, `frames` takes what nodes say, and `driver` learns who leaves.

    tickets: those of the connected nodes. guessers: None if the model that is served takes no guesses.
    """

    def __init__(
        self,
        swarm: Swarm,
        relay: Relay,
        driver: Driver,
        entrance: Entrance,
        stays: Stays,
        outboxes: Outboxes,
        welcomes: Welcomes,
        tickets: Tickets,
        lookout: Lookout,
        frames: Frames,
        guessers: Guessers | None,
    ) -> None:
        self._swarm = swarm
        self._relay = relay
        self._driver = driver
        self._entrance = entrance
        self._stays = stays
        self._outboxes = outboxes
        self._welcomes = welcomes
        self._tickets = tickets
        self._lookout = lookout
        self._frames = frames
        self._guessers = guessers
        self._numbers = itertools.count(1)
        self._limits = Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The route `/node`, as an ASGI application."""
        link = ServerLink(receive, send)
        await link.accept()
        host, _ = scope["client"] or ("", 0)
        await self.serve(link, host, partial(_believe, scope))

    async def serve(
        self,
        link: BundledLink,
        host: str = "",
        on_proven: Callable[[Hello], None] = lambda _: None,
    ) -> None:
        """Serve a node's whole stay, from its greeting to the end of its link. host: the address that it came from.

        on_proven: is called when the node has proven its key and the door has let it in.
        """
        node, task = f"n{next(self._numbers)}", asyncio.current_task()
        assert task is not None
        self._stays.begin(node, host, task)
        sender = asyncio.create_task(self._outboxes.open(node, link).run())
        reason = None
        try:
            if await self._admit(node, link, on_proven):
                while True:
                    self._frames.take(node, await link.receive_all())
        except LinkClosed as error:
            log.log(logging.INFO if node in self._swarm.nodes else logging.DEBUG, "%s: %s", self._called(node), error)
        except (WireError, IdentityError, Refused) as error:
            self._note_refusal(node, error)
            reason = str(error)
        except StoreError as error:  # it may come again, and need not know
            log.error("%s cannot be admitted: %s", self._called(node), error)
        except asyncio.CancelledError:
            reason = self._stays.why_cut(node)
            if reason is None:
                raise
            task.uncancel()
            log.warning("%s is cut off: %s", self._called(node), reason)
        finally:
            sender.cancel()
            self._forget(node)  # before the farewell, which a node that does not read would hold up
            await farewell(link, reason)

    async def _admit(self, node: str, link: Link, on_proven: Callable[[Hello], None]) -> bool:
        """Admit a node. Returns whether it serves layers from now on.

        One that only asks has then learned what it wanted to know, and one that guesses has guessed.
        """
        joined = await self._entrance.introduce(node, link, on_proven)
        self._stays.prove(node, joined.hello.key)
        if joined.hello.guesser is not None:
            await serve_guesser(self._guessers, node, joined.hello, link, self._outboxes.send)
        elif not joined.hello.joins:
            self._show(joined)
        else:
            self._driver.apply(joined)
            self._lookout.heard(node)
            return True
        await self._entrance.linger(link)
        return False

    def _show(self, joined: Joined) -> None:
        """Show what the node would be given. For a while, or until it hangs up, its ticket opens the manifest."""
        self._welcomes.show(joined.node, self._swarm.newcomer(joined))

    def _note_refusal(self, node: str, error: Exception) -> None:
        """Log why a node is refused. Strangers can be refused as often as they like, but not fill the log."""
        if node in self._swarm.nodes or not self._limits.wait_s("refusals", _MOST_REFUSALS, self._relay.clock()):
            log.warning("%s is refused: %s", self._called(node), error)

    def _forget(self, node: str) -> None:
        self._outboxes.close(node)
        self._stays.forget(node)
        self._tickets.cancel(node)
        self._lookout.forget(node)
        self._relay.forget(node)
        self._driver.apply(Left(node))

    def _called(self, node: str) -> str:
        return called(self._swarm.nodes, node)


def _believe(scope: Scope, hello: Hello) -> None:
    """Let a node that joins stay even if the server is full of strangers. One that only asks remains one of them."""
    (vouch_for if hello.joins else note_proven)(scope)
