"""A small model that guesses how answers go on, in a process beside the coordinator. Answers can do without it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec

from potluck.coordinator.generation.trail import Trail
from potluck.wire.guessing import (
    LENGTH_BYTES,
    MOST_TOLD,
    Broken,
    FromGuesser,
    Guessed,
    Leave,
    Loaded,
    Ping,
    Pong,
    ToGuesser,
    decode_from_guesser,
    framed,
)

log = logging.getLogger(__name__)

_END_S = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. load: in which the process must have loaded its model. answer: without a sign of life, after which it is
    asked for one, and then has as long again. pause, longest_pause: before it is started again; the pause doubles each
    time, and begins anew when the process has lived for longer than the longest one.
    """

    load: float = 900.0
    answer: float = 30.0
    pause: float = 1.0
    longest_pause: float = 300.0


class _Lost(Exception):
    """The process has ended, or is of no use. The text says why, as the end of a sentence."""


class SmallModel:
    """Implements `GuesserModel` while it is `kept`.

    name: the model's. command: runs the process. context, vocabulary: as a trail has them.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, context: int, vocabulary: int, patience: Patience | None = None
    ) -> None:
        self.name = name
        self.context = context
        self.vocabulary = vocabulary
        self._command = command
        self._patience = patience or Patience()
        self._numbers = itertools.count(1)
        self._answers: dict[int, _Answer] = {}
        self._to: asyncio.StreamWriter | None = None
        self.pid: int | None = None
        """That of the process, while it can guess."""

    @property
    def is_here(self) -> bool:
        """Whether it can guess now."""
        return self._to is not None

    def open(self) -> _Answer:
        return _Answer(self, next(self._numbers))

    def tell(self, message: ToGuesser) -> None:
        """Say something to the process if it is here. This does not wait."""
        if self._to is not None and not self._to.is_closing():
            self._to.write(framed(message))

    def note(self, answer: _Answer) -> None:
        """Let the answer have what is guessed for it."""
        self._answers[answer.number] = answer

    def drop(self, answer: _Answer) -> None:
        if self._answers.pop(answer.number, None) is not None:
            self.tell(Leave(answer.number))

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Run the process meanwhile, and start it again when it has ended."""
        keeper = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper

    async def _keep(self) -> None:
        clock, patience = asyncio.get_running_loop().time, self._patience
        pause = patience.pause
        while True:
            began = clock()
            try:
                await self._live()
            except _Lost as error:
                reason = str(error)
            except asyncio.IncompleteReadError:
                reason = "its process has ended"
            except msgspec.MsgspecError:
                reason = "it says what cannot be understood"
            except OSError as error:
                reason = f"it cannot be started ({error.strerror or error})"
            if clock() - began > patience.longest_pause:
                pause = patience.pause
            log.warning("%s does not guess now, because %s. It is tried again in %.0f s.", self.name, reason, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, patience.longest_pause)

    async def _live(self) -> None:
        """The life of one process. Raises what has ended it."""
        process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            await self._loaded(process.stdout)
            self._to, self.pid = process.stdin, process.pid
            while True:
                self._take(await self._heard(process.stdout))
        finally:
            self._to = self.pid = None
            for answer in self._answers.values():
                answer.forget()
            self._answers.clear()
            await _end(process)

    async def _loaded(self, pipe: asyncio.StreamReader) -> None:
        try:
            async with asyncio.timeout(self._patience.load):
                first = await _received(pipe)
        except TimeoutError as error:
            raise _Lost("it takes too long to load") from error
        match first:
            case Loaded():
                log.info("%s guesses how answers go on.", self.name)
            case Broken(message):
                raise _Lost(f"it cannot run: {message.rstrip('.')}")
            case _:
                raise _Lost("it begins with what nobody asked for")

    async def _heard(self, pipe: asyncio.StreamReader) -> FromGuesser:
        """The next message. Raises _Lost when there is no sign of life."""
        for _ in range(2):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience.answer):
                    return await _received(pipe)
            self.tell(Ping())
        raise _Lost("it does not answer")

    def _take(self, message: FromGuesser) -> None:
        match message:
            case Guessed(number, _, token):
                if not 0 <= token < self.vocabulary:
                    raise _Lost(f"it guesses token {token}, which there is not")
                if (answer := self._answers.get(number)) is not None:
                    answer.take(message)
            case Pong():
                pass
            case Broken(text):
                raise _Lost(f"it cannot run any more: {text.rstrip('.')}")
            case Loaded():
                raise _Lost("it says twice that it has loaded")


async def _received(pipe: asyncio.StreamReader) -> FromGuesser:
    """The next message. If this is cancelled between its length and the rest, nothing more can be understood."""
    size = int.from_bytes(await pipe.readexactly(LENGTH_BYTES), "big")
    if size > MOST_TOLD:
        raise _Lost(f"it says {size} bytes at once")
    message: FromGuesser = decode_from_guesser(await pipe.readexactly(size))
    return message


async def _end(process: Process) -> None:
    """End the process, which does so by itself when nobody can speak to it any more, unless it hangs."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


class _Answer:
    """Implements `Guesser` for one answer."""

    def __init__(self, model: SmallModel, number: int) -> None:
        self.number = number
        self._model = model
        self._trail = Trail(number, model.context, model.vocabulary)
        self._news = asyncio.Event()
        self._is_over = False

    async def guess(self, tokens: Sequence[int], ahead: int) -> int | None:
        while self._model.is_here and not self._is_over and self._trail.can_follow(tokens, ahead):
            if (message := self._trail.follow(tokens, ahead)) is not None:
                self._model.note(self)
                self._model.tell(message)
            if (token := self._trail.guess(len(tokens))) is not None:
                return token
            self._news.clear()
            await self._news.wait()
        return None

    def take(self, guessed: Guessed) -> None:
        self._trail.take(guessed)
        self._news.set()

    def forget(self) -> None:
        """The process is no more. Whoever waits for a guess has none."""
        self._trail.forget()
        self._news.set()

    def close(self) -> None:
        self._is_over = True
        self._news.set()
        self._model.drop(self)
