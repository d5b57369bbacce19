"""The life of a node that only guesses: it carries what is said between a coordinator and a small model here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from potluck.errors import IdentityError, LinkClosed, ModelError, NoCoordinator, Refused, WireError
from potluck.node.background import Worker
from potluck.node.config import NodeConfig
from potluck.node.introduction import Introduction, expect
from potluck.node.kept_invite import drop_invite
from potluck.node.neighbours import computing, registered
from potluck.node.orders import HEED_S, Order, heed
from potluck.node.permit import Permit
from potluck.node.pins import Pins, pins_path
from potluck.node.progress import Reporter
from potluck.node.redialling import Redialling, dial_once
from potluck.platform import on_battery
from potluck.types import GuesserOffer, PauseReason
from potluck.wire.codec import decode_from_coordinator, encode
from potluck.wire.fleet import Fleet
from potluck.wire.guesser_pipe import GuesserPipe, Pauses, guesser_process
from potluck.wire.link import Link
from potluck.wire.messages import GuesserHears, GuesserSays, Notice, Ping, Pong, Refusal, Vocabulary
from potluck.wire.vocabulary import check_vocabulary, unpacked


@dataclass(frozen=True)
class OwnModel:
    """A small model on this machine. pieces: what its tokens stand for.

    command: what runs its process, for which this fetches its weights, given the context and the number of ids of the
    model that is served. It blocks.
    """

    offer: GuesserOffer
    pieces: Sequence[bytes]
    command: Callable[[int, int], Sequence[str]]


class _Served(NamedTuple):
    """The model for which it guesses. vocabulary: the number of its ids."""

    name: str
    context: int
    vocabulary: int


class _Ended(Exception):
    """The small model has ended, or the coordinator wants no more guesses now. The text says why."""


class GuesserAgent:
    """A node that guesses with this model as its owner's choices say. It lives while it `run`s."""

    def __init__(self, config: NodeConfig, small: OwnModel, reporter: Reporter) -> None:
        self._config = config
        self._small = small
        self._reporter = reporter
        self._say = reporter.say
        self._introduction = Introduction(config.identity, config.url, config.invite, Pins(pins_path()), reporter.say)
        self._redialling = Redialling(config.url, reporter.say)
        self._permit = Permit(config.hours, on_battery=config.on_battery)
        self._running: asyncio.Task[None] | None = None

    async def inquire(self) -> None:
        """Ask the coordinator whether this model may guess. Nothing changes there, and no weights are fetched.

        Raises PotluckError when nobody answers, the coordinator refuses this node, or the vocabularies differ.
        """
        served = await self._ask(await dial_once(self._config.url))
        self._say(f"{self._small.offer.name} can guess for {served.name}, because their vocabularies agree.")

    async def run(self) -> None:
        """Guess until `leave`, and dial again, also other coordinators of the fleet, whenever the connection breaks.

        Raises Refused, NoCoordinator unless it was admitted before, IdentityError when the coordinator is not the known
        one and there is no other, or ModelError when the model cannot guess.
        """
        self._running = asyncio.current_task()
        with registered(self._config.name):
            acts = {Order.PAUSE: self._pause, Order.RESUME: self._resume, Order.LEAVE: self.leave}
            heeding = asyncio.create_task(heed(acts))
            try:
                await self._serve()
            finally:
                heeding.cancel()

    def leave(self) -> None:
        """End `run`. Nobody loses anything by it."""
        if self._running is not None:
            self._running.cancel()

    def _pause(self) -> None:
        self._permit.paused = True

    def _resume(self) -> None:
        self._permit.paused = False

    def _refusal(self) -> PauseReason | None:
        """The reason why this node may not work now, or None."""
        local = time.localtime()
        return self._permit.refusal(local.tm_hour * 60 + local.tm_min, 0.0, time.monotonic(), on_battery())

    async def _serve(self) -> None:
        command: Sequence[str] = ()
        pauses, clock = Pauses(), asyncio.get_running_loop().time
        while True:
            await self._until(allowed=True)
            began = clock()
            try:
                link = await self._redialling.dial()
                if not command:  # before weights are fetched, which takes long
                    command = await self._fetch(await self._ask(link))
                    continue
                await self._stay(link, command)
            except _Ended as error:
                pause_s = pauses.after(clock() - began)
                self._say(f"The small model has stopped guessing ({error}); trying again in {pause_s:.0f} s.")
                await asyncio.sleep(pause_s)
            except (LinkClosed, NoCoordinator, IdentityError, Refused, WireError, ModelError) as error:
                await self._redialling.lost(error)

    async def _until(self, *, allowed: bool) -> None:
        """Wait until the owner lets the node work, or no longer lets it."""
        told: PauseReason | None = None
        while ((reason := self._refusal()) is None) is not allowed:
            if reason is not told:
                self._say(f"Pausing: {reason}.")
                told = reason
            await asyncio.sleep(HEED_S)

    async def _ask(self, link: Link) -> _Served:
        """Ask whether the small model may guess, and for which model, and close the link."""
        try:
            served = await self._introduce(link, joins=False)
        finally:
            await link.close()
        self._note_served()
        return served

    async def _fetch(self, served: _Served) -> Sequence[str]:
        """What runs the small model, whose weights are on this machine then."""
        what = f"Fetching {self._small.offer.name}"
        self._reporter.progress(what, None)
        command = await Worker().run(self._small.command, served.context, served.vocabulary)
        self._reporter.progress(what, 1.0)
        return command

    async def _stay(self, link: Link, command: Sequence[str]) -> None:
        """Guess from the greeting to the end of one link, or until the owner no longer lets the node work."""
        try:
            served = await self._introduce(link, joins=True)
            drop_invite(self._config.name, self._redialling.url)
            self._note_served()
            async with guesser_process(command) as pipe:
                self._say(f"Guessing with {self._small.offer.name} for {served.name} at {self._redialling.url}.")
                with computing(pipe.pid):
                    await _first_of(self._hear(link, pipe), _tell(link, pipe), self._until(allowed=False))
        except OSError as error:
            raise Refused(f"The small model cannot be started: {error.strerror or error}.") from error
        finally:
            await link.close()

    def _note_served(self) -> None:
        """Note that this is a coordinator for which the model can guess."""
        self._redialling.admitted()
        self._redialling.settle()

    async def _introduce(self, link: Link, *, joins: bool) -> _Served:
        """Offer to guess. Returns the model that is served.

        Raises ModelError when its vocabulary is not the small model's, or what `Introduction.make` raises.
        """
        hello = msgspec.structs.replace(self._config.hello("", 0.0, joins=joins), guesser=self._small.offer)
        await self._introduction.make(link, hello, self._redialling.other)
        told, payload = await expect(link, Vocabulary)
        pieces = unpacked(payload)
        check_vocabulary(self._small.offer.name, self._small.pieces, told.model, pieces)
        if joins:
            self._redialling.learn(told.fleet)
        return _Served(told.model, told.context, len(pieces))

    async def _hear(self, link: Link, pipe: GuesserPipe) -> None:
        """Pass on what the coordinator says."""
        while True:
            message, payload = decode_from_coordinator(await link.receive())
            match message:
                case GuesserHears():
                    pipe.send(payload)
                case Ping(number):
                    await link.send(encode(Pong(number, 0), payload))
                case Notice(text):
                    self._say(text)
                case Fleet(coordinators):
                    self._redialling.learn(coordinators)
                case Refusal(reason):  # what is for good is said again when it dials
                    raise _Ended(reason.rstrip("."))
                case _:
                    raise WireError(f"The coordinator sent {type(message).__name__} to a node that guesses.")


async def _tell(link: Link, pipe: GuesserPipe) -> None:
    """Pass on what the small model says."""
    while True:
        try:
            told = await pipe.receive()
        except (LinkClosed, WireError) as error:
            raise _Ended(str(error)) from error
        await link.send(encode(GuesserSays(), told))


async def _first_of(*works: Awaitable[None]) -> None:
    """Do all of this until the first of it ends. Raises what that raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
