"""A small model that guesses how answers go on, wherever it runs. Answers can do without it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from potluck.coordinator.generation.trail import Trail
from potluck.wire.guessing import Broken, Follow, FromGuesser, Guessed, Leave, Loaded, Ping, Pong, ToGuesser

log = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[FromGuesser]]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. load: in which the model must have loaded. answer: without a sign of life, after which it is asked for
    one, and then has as long again.
    """

    load: float = 900.0
    answer: float = 30.0


class GuesserLost(Exception):
    """The small model has ended, or is of no use. The text says why, as the end of a sentence."""


class SmallModel:
    """Implements `GuesserModel` while somebody lets it `converse`.

    name: the model's. context, vocabulary: as a trail has them.
    """

    def __init__(self, name: str, *, context: int, vocabulary: int, patience: Patience | None = None) -> None:
        self.name = name
        self.context = context
        self.vocabulary = vocabulary
        self._patience = patience or Patience()
        self._numbers = itertools.count(1)
        self._answers: dict[int, AnswerGuesser] = {}
        self._send: Callable[[ToGuesser], None] | None = None
        self._awaited = 0
        """The most messages that it may still say, because it was asked for them."""
        self._reach: dict[int, int] = {}
        """The farthest position of each answer up to which guesses were ever wanted: it may tell them all again."""

    @property
    def is_here(self) -> bool:
        """Whether it can guess now."""
        return self._send is not None

    @property
    def answers(self) -> int:
        """The answers for which it guesses."""
        return len(self._answers)

    def open(self) -> AnswerGuesser:
        return AnswerGuesser(self, next(self._numbers))

    def tell(self, message: ToGuesser) -> None:
        """Say something to the model if it is here. This does not wait."""
        if self._send is None:
            return
        match message:
            case Follow(answer, position=position, tokens=tokens, until=until):
                reach = self._reach[answer] = max(until, self._reach.get(answer, 0))
                self._awaited += max(0, reach - position - len(tokens))
            case Leave(answer):
                self._reach.pop(answer, None)
            case Ping():
                self._awaited += 1
        self._send(message)

    def can_read(self, tokens: Sequence[int]) -> bool:
        """Whether it can guess the token behind these now."""
        return self.is_here and len(tokens) < self.context and max(tokens, default=0) < self.vocabulary

    def note(self, answer: AnswerGuesser) -> None:
        """Let the answer have what is guessed for it."""
        self._answers[answer.number] = answer

    def drop(self, answer: AnswerGuesser) -> None:
        if self._answers.pop(answer.number, None) is not None:
            self.tell(Leave(answer.number))

    async def converse(self, receive: Receive, send: Callable[[ToGuesser], None]) -> None:
        """Let it guess from its first message until it has nothing more to say, or says what it should not.

        receive: waits for its next message. send: says something to it, without waiting. Raises GuesserLost, or what
        these two raise.
        """
        await self._loaded(receive)
        log.info("%s guesses how answers go on.", self.name)
        self._send, self._awaited, self._reach = send, 0, {}
        try:
            while True:
                self._take(await self._heard(receive))
        finally:
            self._send = None
            for answer in self._answers.values():
                answer.forget()
            self._answers.clear()

    async def _loaded(self, receive: Receive) -> None:
        try:
            async with asyncio.timeout(self._patience.load):
                first = await receive()
        except TimeoutError as error:
            raise GuesserLost("it takes too long to load") from error
        match first:
            case Loaded():
                pass
            case Broken(message):
                raise GuesserLost(f"it cannot run: {message.rstrip('.')}")
            case _:
                raise GuesserLost("it begins with what nobody asked for")

    async def _heard(self, receive: Receive) -> FromGuesser:
        """The next message. Raises GuesserLost when there is no sign of life."""
        for _ in range(2):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience.answer):
                    return await receive()
            self.tell(Ping())
        raise GuesserLost("it does not answer")

    def _take(self, message: FromGuesser) -> None:
        self._awaited -= 1
        match message:
            case Broken(text):
                raise GuesserLost(f"it cannot run any more: {text.rstrip('.')}")
            case Loaded():
                raise GuesserLost("it says twice that it has loaded")
            case _ if self._awaited < 0:
                raise GuesserLost("it says more than it was asked")
            case Guessed(number, _, token):
                if not 0 <= token < self.vocabulary:
                    raise GuesserLost(f"it guesses token {token}, which there is not")
                if (answer := self._answers.get(number)) is not None:
                    answer.take(message)
            case Pong():
                pass


class AnswerGuesser:
    """Implements `Guesser` for one answer."""

    def __init__(self, model: SmallModel, number: int) -> None:
        self.number = number
        self._model = model
        self._trail = Trail(number, model.context, model.vocabulary)
        self._news = asyncio.Event()
        self._is_over = False

    @property
    def is_here(self) -> bool:
        """Whether its model can guess now."""
        return self._model.is_here

    def can_follow(self, tokens: Sequence[int], ahead: int) -> bool:
        """Whether its model can read these tokens, as `Trail.can_follow` has it."""
        return self._trail.can_follow(tokens, ahead)

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
        """The model is no more. Whoever waits for a guess has none."""
        self._trail.forget()
        self._news.set()

    def close(self) -> None:
        self._is_over = True
        self._news.set()
        self._model.drop(self)
