"""The life of a node: it dials, says hello, loads its span, serves it, and dials again when the connection breaks."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from potluck.engine.base import Engine
from potluck.engine.probe import measure, stop_probes
from potluck.errors import (
    CardLost,
    EngineError,
    IdentityError,
    LinkClosed,
    ModelError,
    NoCoordinator,
    Refused,
    TicketExpired,
    WireError,
)
from potluck.node.announcement import announcement
from potluck.node.background import Worker
from potluck.node.config import NodeConfig
from potluck.node.engine_loop import EngineLoop
from potluck.node.hardware import Cores, read_rate
from potluck.node.introduction import Introduction, answer
from potluck.node.kept_invite import drop_invite
from potluck.node.known_speeds import note_library
from potluck.node.loading import fetch_span, load_span, model_digest, needs, offer_span, opened
from potluck.node.neighbours import Neighbours, follow, registered
from potluck.node.orders import Order, heed
from potluck.node.permit import Permit
from potluck.node.pins import Pins, pins_path
from potluck.node.progress import Phase, Reporter, overall
from potluck.node.redialling import Redialling
from potluck.node.room import Room
from potluck.node.sharing import Offer, Sharing, usable_peers
from potluck.node.upload import PacedLink, Upload
from potluck.platform import on_battery
from potluck.types import EngineKind, PauseReason
from potluck.wire.codec import encode
from potluck.wire.fleet import Fleet, Redirect
from potluck.wire.link import Link
from potluck.wire.messages import Leaving, Loading, Pause, Ready, Resume, Threads, Welcome

log = logging.getLogger(__name__)

_LEAVE_S = 30.0
"""Seconds that a leaving node waits for others to take over its sessions."""
_REPORT_S = 0.5
_FOLLOW_S = 0.5
_YIELD_S = 0.4
"""Seconds from the pause to the start of the last computation. The owner then waits less than a second in total."""


@dataclass
class _Loaded:
    """A span in memory, which survives a broken connection."""

    welcome: Welcome
    engine: Engine
    ready: Ready
    offer: Offer


class Agent:
    def __init__(self, config: NodeConfig, reporter: Reporter) -> None:
        self._config = config
        self._reporter = reporter
        pins = Pins(pins_path())
        self._introduction = Introduction(config.identity, config.url, config.invite, pins, reporter.say)
        self._worker = Worker()
        self._cores = Cores(config.threads)
        self._loaded: _Loaded | None = None
        self._last: Welcome | None = None
        """The layers that it has served last."""
        self._fraction = 0.0
        self._bytes_per_s = 0.0
        self._redialling = Redialling(config.url, reporter.say)
        self._running: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()
        self._permit = Permit(config.hours, config.idle_only, config.on_battery)
        self._busy = 0.0
        """The cores that other programs used at the latest look."""
        self._looked = asyncio.Event()
        """Is set when there is news for the permit."""
        self._serving = False
        self._upload = Upload(config.upload) if config.upload is not None else None
        self._sharing = Sharing(self._upload)

    async def run(self) -> None:
        """Serve until `leave`, and dial again, also other coordinators of the fleet, whenever the connection breaks.

        Raises Refused, NoCoordinator unless it was admitted before, IdentityError when the coordinator is not the known
        one and there is no other, or the error that concerns the model.
        """
        self._running = asyncio.current_task()
        try:
            with registered(self._config.name):
                acts = {Order.PAUSE: self.pause, Order.RESUME: self.resume, Order.LEAVE: self.leave}
                heeding = asyncio.create_task(heed(acts))
                try:
                    await self._serve()
                finally:
                    heeding.cancel()
        finally:
            stop_probes()
            self._sharing.close()

    def leave(self) -> None:
        """Hand over what others wait for, then end `run`. Ends at once if there is nothing, or when called again."""
        if self._serving and not self._leaving.is_set():
            self._leaving.set()
        elif self._running is not None:
            self._running.cancel()

    def pause(self) -> None:
        """Stop computing until `resume`. The layers stay loaded."""
        self._permit.paused = True
        self._looked.set()

    def resume(self) -> None:
        """Work again as soon as the other conditions allow it."""
        self._permit.paused = False
        self._looked.set()

    def _refusal(self) -> PauseReason | None:
        """The reason why this node may not work now, or None."""
        local = time.localtime()
        return self._permit.refusal(local.tm_hour * 60 + local.tm_min, self._busy, time.monotonic(), on_battery())

    async def _serve(self) -> None:
        await self._wait_for_permit()
        digest = await self._worker.run(model_digest, self._config.model, self._reporter)
        self._bytes_per_s = await self._worker.run(read_rate, self._config.threads)
        while True:
            try:
                self._reporter.progress(f"Waiting for {self._redialling.url}", None)
                dialled = await self._redialling.dial()
                link = PacedLink(dialled, self._upload) if self._upload is not None else dialled
                redirect = await self._stay(link, dialled.local_host, digest)
                if redirect is None or self._leaving.is_set():
                    return
                self._redialling.send(redirect)
            except CardLost as error:
                self._config = replace(self._config, room=Room(self._config.room.memory))
                self._reporter.say(f"{error} The node goes on without the card.")
                await self._redialling.pause()
            except (LinkClosed, TicketExpired, NoCoordinator) as error:
                if self._leaving.is_set():
                    return
                await self._redialling.lost(error)
            except (IdentityError, Refused, WireError) as error:
                await self._redialling.lost(error)

    async def _wait_for_permit(self) -> None:
        """Wait until the owner lets the node work, before anything is downloaded or loaded."""
        told: PauseReason | None = None
        while reason := self._refusal():
            if reason is not told:
                self._reporter.say(f"Waiting: {reason}.")
                told = reason
            await asyncio.sleep(_FOLLOW_S)

    async def _stay(self, link: Link, host: str, digest: str) -> Redirect | None:
        """Serve from the greeting to the end of one link. Returns when the coordinator lets this node go, and where it
        is to go then.

        host: the address of this machine by which it reaches the coordinator.
        """
        try:
            # A node that comes back asks for what it still holds.
            hello = self._config.hello(digest, self._bytes_per_s, self._last)
            await self._introduction.make(link, hello, self._redialling.other)
            order: Welcome | Redirect | Fleet | str | None
            order = await answer(link)
            url = self._redialling.url
            drop_invite(self._config.name, url)
            self._redialling.admitted()
            self._reporter.progress(f"Waiting for {url}", 1.0)
            while isinstance(order, (str, Fleet)):
                if isinstance(order, Fleet):
                    self._redialling.learn(order.coordinators)
                else:
                    self._reporter.say(order)
                order = await answer(link)
            while isinstance(order, Welcome):
                self._redialling.learn(order.fleet)
                loaded = await self._load_or_go_back(link, host, order)
                self._last = loaded.welcome
                # Each coordinator's run has a token of its own.
                offer = replace(loaded.offer, token=order.peer_token)
                shares = self._sharing.start(host, offer)
                await link.send(encode(msgspec.structs.replace(loaded.ready, shares=shares)))
                self._redialling.settle()
                self._reporter.say(f"Serving layers {order.span} of {url}.")
                order = await self._serve_span(loaded, link)
                self._sharing.withdraw()  # nobody listens for new tokens while other layers are loaded
            return order
        finally:
            self._sharing.withdraw()
            await link.close()

    async def _serve_span(self, loaded: _Loaded, link: Link) -> Welcome | Redirect | None:
        """Serve as `EngineLoop.run` does, and do beside it what the owner wants."""
        say, rows = self._reporter.say, loaded.welcome.rows
        on_token, on_fleet = self._sharing.change_token, self._redialling.learn
        speed, cores, worker = loaded.ready.speed, self._cores, self._worker
        loop = EngineLoop(loaded.engine, speed, link, rows, cores, worker, say, on_token, on_fleet)
        helpers = [
            asyncio.create_task(work)
            for work in (self._follow_cores(link), self._obey(loop, link), self._take_leave(link))
        ]
        self._serving = True
        try:
            return await loop.run()
        finally:
            self._serving = False
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)  # their link is the loop's, which tells its end

    async def _take_leave(self, link: Link) -> None:
        await self._leaving.wait()
        self._reporter.say("Leaving: others take over what runs here. Press Ctrl-C once more to leave at once.")
        self._reporter.progress("Leaving", None)
        await link.send(encode(Leaving()))
        await asyncio.sleep(_LEAVE_S)
        await link.close()

    async def _obey(self, loop: EngineLoop, link: Link) -> None:
        """Pause and continue as the owner wants."""
        told: PauseReason | None = None
        pausing: asyncio.TimerHandle | None = None
        while True:
            reason = self._refusal()
            if pausing is None and reason is not None:
                # Not after the message: a slow line must not keep the machine from its owner.
                pausing = asyncio.get_running_loop().call_later(_YIELD_S, loop.pause)
            elif pausing is not None and reason is None:
                pausing.cancel()
                pausing = None
                loop.resume()
            if reason is not told:
                told = reason
                self._reporter.say(f"Pausing: {reason}." if reason else "Continuing.")
                await link.send(encode(Pause(reason) if reason else Resume()))
            await self._looked.wait()
            self._looked.clear()

    async def _follow_cores(self, link: Link) -> None:
        """Compute with as many threads as other programs leave cores free, and tell the coordinator."""
        neighbours, before = Neighbours(self._cores.count, self._cores.allowed), float(self._cores.count)
        while True:
            await asyncio.sleep(_FOLLOW_S)
            latest = neighbours.free_cores()
            self._busy = self._cores.count - latest
            self._looked.set()
            threads = follow(self._cores.threads, self._config.threads, before, latest)
            before = latest
            if threads != self._cores.threads:
                self._cores.threads = threads
                await link.send(encode(Threads(threads)))

    async def _load_or_go_back(self, link: Link, host: str, welcome: Welcome) -> _Loaded:
        """Load these layers. If they are of another model, or at another coordinator, and cannot be loaded, the node
        goes back to the last ones.

        Raises LinkClosed then, and what `_load` raises otherwise.
        """
        try:
            return await self._load(link, host, welcome)
        except (EngineError, ModelError) as error:
            if self._last is None or (self._last.model == welcome.model and not self._redialling.is_elsewhere):
                raise
            self._reporter.say(f"{error} The node goes back to what it served before.")
            self._redialling.give_up()
            raise LinkClosed("it cannot serve what it was given there") from error

    async def _load(self, link: Link, host: str, welcome: Welcome) -> _Loaded:
        old = self._loaded
        if old is not None and _same_work(old.welcome, welcome):
            return old
        if old is not None:
            self._loaded = None
            await self._worker.run(old.engine.unload)
        self._fraction = 0.0
        reports = asyncio.create_task(self._report_progress(link))
        try:
            peers = usable_peers(welcome.peers, host)
            self._loaded = await self._worker.run(self._load_now, msgspec.structs.replace(welcome, peers=peers))
        finally:
            reports.cancel()
        return self._loaded

    def _load_now(self, welcome: Welcome) -> _Loaded:
        """Load the span. This call blocks and runs on the worker's thread."""
        config, url = self._config, self._redialling.url
        with opened(url, config.model, welcome) as (manifest, source):
            needed = needs(manifest, welcome, config.room)
            for sentence in announcement(welcome, needed, config.room, url, config.model):
                self._reporter.say(sentence)
            path = fetch_span(manifest, source, welcome, self._note)
        self._reporter.say(f"Loading layers {welcome.span}.")
        engine, layout = load_span(manifest, path, welcome, config.room, config.threads, self._note)
        with self._cores.share() as cores:
            engine.use_cores(cores)
            speed, twin = measure(engine, partial(self._note, Phase.MEASURE))
            engine.rest()
        if welcome.engine is EngineKind.LLAMACPP:
            self._reporter.say(note_library(f"{path.parent.name}/{path.stem} on {len(cores)} cores", speed))
        offer = offer_span(manifest, path, welcome)
        return _Loaded(welcome, engine, Ready(engine.capacity, speed, twin, layout), offer)

    def _note(self, phase: Phase, fraction: float) -> None:
        self._fraction = overall(phase, fraction)
        self._reporter.progress(phase, fraction)

    async def _report_progress(self, link: Link) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            await link.send(encode(Loading(self._fraction)))


def _same_work(one: Welcome, other: Welcome) -> bool:
    apart = ("node", "rows", "ticket", "peers", "peer_token", "prospect", "fleet")
    same = {name: getattr(other, name) for name in apart}
    return msgspec.structs.replace(one, **same) == other
