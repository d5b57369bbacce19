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
from potluck.coordinator.gateway.home import Home
from potluck.coordinator.gateway.lending import Lender
from potluck.coordinator.gateway.lobby import Lobby
from potluck.coordinator.gateway.socket import ServerLink, farewell
from potluck.coordinator.members.limits import Limits
from potluck.coordinator.swarm.events import Joined, Keeps, Lends
from potluck.coordinator.swarm.node import is_lent
from potluck.errors import IdentityError, LinkClosed, Refused, StoreError, WireError
from potluck.types import Coordinator, NodeState
from potluck.webserver.guard import note_proven, vouch_for
from potluck.wire.codec import decode_from_node, encode
from potluck.wire.fleet import Fleet, Redirect
from potluck.wire.link import BundledLink, Link
from potluck.wire.messages import Hello, Notice, Pong, Refusal

log = logging.getLogger(__name__)

_MOST_REFUSALS = 60
"""The most refusals of strangers that are logged in a minute."""

_MOST_IDLE = 1000
_WAIT = "Waiting until somebody asks for a model."

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
        self._lender = Lender(gates, self._homes, lobby.idle, self._call)
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
        last: Refusal | Redirect | None = None
        try:
            await self._admit(node, link, on_proven)
            while node in self._homes or node in self._lobby.idle:
                frames = await link.receive_all()
                if node in self._homes:
                    self._homes[node].gate.take(node, frames)
                else:
                    _take_pongs(frames)
        except LinkClosed as error:
            log.log(logging.INFO if self._is_admitted(node) else logging.DEBUG, "%s: %s", self._called(node), error)
        except (WireError, IdentityError, Refused) as error:
            self._note_refusal(node, error)
            last = Refusal(str(error))
        except StoreError as error:  # it may come again, and need not know
            log.error("%s cannot be admitted: %s", self._called(node), error)
        except asyncio.CancelledError:
            last = self._lobby.stays.last_word(node)
            if last is None:
                raise
            task.uncancel()
            self._note_end(node, last)
        finally:
            sender.cancel()
            self._forget(node)  # before the farewell, which a node that does not read would hold up
            await farewell(link, last)

    async def _admit(self, node: str, link: Link, on_proven: Callable[[Hello], None]) -> None:
        """Admit a node to its home.

        One that only asks has then learned what it wanted to know, and one that guesses has guessed.
        """

        def proven(hello: Hello) -> None:
            self._lobby.stays.prove(node, hello.key)  # from now on the owner can end its stay
            on_proven(hello)

        joined = await self._lobby.entrance.introduce(node, link, proven)
        home = chosen(self._gates, joined)
        if home is None:
            await self._let_wait(node, joined, link)
            return
        gate, joined, _ = home
        if joined.hello.guesser is not None:
            gate.swarm.check(joined.hello.key)
            fleet = tuple(self._lobby.fleet())
            await serve_guesser(gate.guessers, node, joined.hello, link, partial(self._tell_guesser, node), fleet)
        elif not joined.hello.joins:
            gate.show(joined)
        else:
            gate.admit(joined)
            self._homes[node] = home
            self._lender.go_on()
            return
        await self._lobby.entrance.linger(link)

    async def _let_wait(self, node: str, joined: Joined, link: Link) -> None:
        """Let a node wait without layers until somebody asks for a model that it may serve."""
        if len(self._lobby.idle) >= _MOST_IDLE:
            raise Refused("Too many nodes wait here until somebody asks for a model.")
        self._lobby.outboxes.send((node, encode(Notice(_WAIT))))
        if not joined.hello.joins:
            await self._lobby.entrance.linger(link)
            return
        log.info("Node %s (%s) waits until somebody asks for a model.", joined.hello.name, node)
        self._lobby.idle[node] = joined
        if self._lobby.fleet():
            self._lobby.outboxes.send((node, self._fleet()))

    def _fleet(self) -> bytes:
        """What tells nodes of the other coordinators."""
        return encode(Fleet(tuple(self._lobby.fleet())))

    def _call(self, node: str, target: Gate, joined: Joined) -> None:
        """Admit a node that waits to the model that somebody asks for."""
        del self._lobby.idle[node]
        self._homes[node] = Home(target, joined, lent=True)
        target.admit(joined)

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
        """Admit a node to another model, or send it to another coordinator, for which its own model has let it go,
        unless it is needed there again.
        """
        home = self._homes.get(node)
        known = home.gate.swarm.nodes[node] if home is not None else None
        if home is None or known is None or not is_lent(known) or known.reserved:
            return
        if known.there is not None:
            self._lobby.stays.send(node, known.there)
            return
        target = self._lender.destination(node, home)
        if target is None:
            home.gate.driver.apply(Keeps(node))
            return
        log.info("%s moves from %s to %s.", self._called(node), home.gate.name, target.name)
        self._lender.calling.moved(home.joined, home.gate, known.span)
        joined = replace(self._lender.calling.returning(home.joined, target), entry=known.entry)
        owed = home.gate.forget(node)
        self._homes[node] = Home(target, joined, lent=True)
        target.admit(joined, owed)

    def redirect(self, node: str, there: Coordinator) -> bool:
        """Send a node to another coordinator as soon as others have its sessions. Returns False if it has gone, or its
        model cannot spare it. It stays, too, if its model needs it again before it goes.
        """
        home = self._homes.get(node)
        if home is None:
            return False
        # What lacks layers answers nobody anyway.
        home.gate.driver.apply(Lends(node, given=bool(home.gate.swarm.missing()), there=there))
        return home.gate.swarm.nodes[node].there == there

    def tell_fleet(self) -> None:
        """Tell all nodes that serve where else they may, because that has changed."""
        for gate in self._gates:
            gate.welcomes.tell_fleet()
        if self._lobby.idle:
            frame = self._fleet()
            self._lobby.outboxes.send(*((node, frame) for node in self._lobby.idle))

    def stop(self) -> None:
        self._lender.stop()

    def _note_end(self, node: str, last: Refusal | Redirect) -> None:
        """Log why the coordinator ends a stay."""
        if isinstance(last, Redirect):
            log.info("%s is sent to %s.", self._called(node), last.url)
        else:
            log.warning("%s is cut off: %s", self._called(node), last.reason)

    def _note_refusal(self, node: str, error: Exception) -> None:
        """Log why a node is refused. Strangers can be refused as often as they like, but not fill the log."""
        if self._is_admitted(node) or not self._limits.wait_s("refusals", _MOST_REFUSALS, self._clock()):
            log.warning("%s is refused: %s", self._called(node), error)

    def _forget(self, node: str) -> None:
        self._lobby.outboxes.close(node)
        self._lobby.stays.forget(node)
        self._lobby.tickets.cancel(node)
        self._lobby.idle.pop(node, None)
        self._lender.calling.forget(node)
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


def _take_pongs(frames: Sequence[bytes]) -> None:
    """Take what a node says that waits. Raises WireError for what only a node with layers says."""
    for frame in frames:
        message, _ = decode_from_node(frame)
        if not isinstance(message, Pong):
            raise WireError(f"A node that serves no layers yet sent {type(message).__name__}.")


def _believe(scope: Scope, hello: Hello) -> None:
    """Let a node that joins stay even if the server is full of strangers. One that only asks remains one of them."""
    (vouch_for if hello.joins else note_proven)(scope)
