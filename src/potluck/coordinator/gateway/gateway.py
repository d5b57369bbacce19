"""The coordinator's end of the web-sockets: a node's stay, from its greeting to the end of its link."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from starlette.types import Receive, Scope, Send

from potluck.coordinator.gateway.choice import chosen
from potluck.coordinator.gateway.driver import Caught
from potluck.coordinator.gateway.gate import Gate
from potluck.coordinator.gateway.guessing import serve_guesser
from potluck.coordinator.gateway.lending import Home, Lender, anew
from potluck.coordinator.gateway.lobby import Lobby
from potluck.coordinator.gateway.socket import ServerLink, farewell
from potluck.coordinator.members.limits import Limits
from potluck.coordinator.swarm.events import Keeps
from potluck.coordinator.swarm.node import is_lent
from potluck.errors import IdentityError, LinkClosed, Refused, StoreError, WireError
from potluck.types import NodeState
from potluck.webserver.guard import note_proven, vouch_for
from potluck.wire.link import BundledLink, Link
from potluck.wire.messages import Hello

log = logging.getLogger(__name__)

_MOST_REFUSALS = 60
"""The most refusals of strangers that are logged in a minute."""

_MOST_WAITING = 1000
"""The most frames that wait for a node that guesses."""


class Gateway:
    """Owns the links of all nodes. gates: those of the models that are served. clock: seconds."""

    def __init__(self, gates: Sequence[Gate], lobby: Lobby, clock: Callable[[], float] = time.monotonic) -> None:
        self._gates = gates
        self._lobby = lobby
        self._clock = clock
        self._limits = Limits()
        self._homes: dict[str, Home] = {}
        self._lender = Lender(gates, self._homes)
        lobby.caught.listen(self._shun)
        lobby.lent.listen(self._move_soon)

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
        node, task = f"n{next(self._lobby.numbers)}", asyncio.current_task()
        assert task is not None
        self._lobby.stays.begin(node, host, task)
        sender = asyncio.create_task(self._lobby.outboxes.open(node, link).run())
        reason = None
        try:
            await self._admit(node, link, on_proven)
            while node in self._homes:
                frames = await link.receive_all()
                self._homes[node].gate.take(node, frames)
        except LinkClosed as error:
            log.log(logging.INFO if self._is_admitted(node) else logging.DEBUG, "%s: %s", self._called(node), error)
        except (WireError, IdentityError, Refused) as error:
            self._note_refusal(node, error)
            reason = str(error)
        except StoreError as error:  # it may come again, and need not know
            log.error("%s cannot be admitted: %s", self._called(node), error)
        except asyncio.CancelledError:
            reason = self._lobby.stays.why_cut(node)
            if reason is None:
                raise
            task.uncancel()
            log.warning("%s is cut off: %s", self._called(node), reason)
        finally:
            sender.cancel()
            self._forget(node)  # before the farewell, which a node that does not read would hold up
            await farewell(link, reason)

    async def _admit(self, node: str, link: Link, on_proven: Callable[[Hello], None]) -> None:
        """Admit a node to its home.

        One that only asks has then learned what it wanted to know, and one that guesses has guessed.
        """

        def proven(hello: Hello) -> None:
            self._lobby.stays.prove(node, hello.key)  # from now on the owner can end its stay
            on_proven(hello)

        joined = await self._lobby.entrance.introduce(node, link, proven)
        home = chosen(self._gates, joined)
        gate, joined, _ = home
        if joined.hello.guesser is not None:
            gate.swarm.check(joined.hello.key)
            await serve_guesser(gate.guessers, node, joined.hello, link, partial(self._tell_guesser, node))
        elif not joined.hello.joins:
            gate.show(joined)
        else:
            gate.admit(joined)
            self._homes[node] = home
            self._lender.go_on()
            return
        await self._lobby.entrance.linger(link)

    def _tell_guesser(self, node: str, frame: bytes) -> None:
        """Tell a guesser something, unless it reads so slowly that its guesses would come too late anyway."""
        self._lobby.outboxes.send((node, frame))
        if self._lobby.outboxes.waiting(node) > _MOST_WAITING:
            self._lobby.stays.end(node, "This node reads too slowly to guess.")

    def _shun(self, caught: Caught) -> None:
        """End the stays of nodes with this key that serve no layers: they would read every answer."""
        for node in self._lobby.stays.of(caught.key):
            if node not in self._homes:
                self._lobby.stays.end(node, f"This node is in quarantine: {caught.reason}.")

    def _move_soon(self, node: str) -> None:
        """Move a node when its model is done with what it does now."""
        asyncio.get_running_loop().call_soon(self._move, node)

    def _move(self, node: str) -> None:
        """Admit a node to another model, for which its own one has let it go, unless it is needed there again."""
        home = self._homes.get(node)
        known = home.gate.swarm.nodes[node] if home is not None else None
        if home is None or known is None or not is_lent(known) or known.reserved:
            return
        target = self._lender.destination(node, home)
        if target is None:
            home.gate.driver.apply(Keeps(node))
            return
        log.info("%s moves from %s to %s.", self._called(node), home.gate.name, target.name)
        joined = replace(anew(home.joined), entry=known.entry)
        owed = home.gate.forget(node)
        self._homes[node] = Home(target, joined, lent=True)
        target.admit(joined, owed)

    def stop(self) -> None:
        self._lender.stop()

    def _note_refusal(self, node: str, error: Exception) -> None:
        """Log why a node is refused. Strangers can be refused as often as they like, but not fill the log."""
        if self._is_admitted(node) or not self._limits.wait_s("refusals", _MOST_REFUSALS, self._clock()):
            log.warning("%s is refused: %s", self._called(node), error)

    def _forget(self, node: str) -> None:
        self._lobby.outboxes.close(node)
        self._lobby.stays.forget(node)
        self._lobby.tickets.cancel(node)
        home = self._homes.pop(node, None)
        if home is not None and home.lent and home.gate.swarm.nodes[node].state is NodeState.LOADING:
            self._lender.failed(home)
        for gate in self._gates:
            gate.forget(node)

    def _is_admitted(self, node: str) -> bool:
        return node in self._homes

    def _called(self, node: str) -> str:
        home = self._homes.get(node)
        return (home.gate if home is not None else self._gates[0]).called(node)


def _believe(scope: Scope, hello: Hello) -> None:
    """Let a node that joins stay even if the server is full of strangers. One that only asks remains one of them."""
    (vouch_for if hello.joins else note_proven)(scope)
