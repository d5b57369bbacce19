"""A real small model whose guesses come late: it is never held to say more than it was asked."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, cast

import pytest

from kit.runner import run
from kit.text_engine import IDS, TextEngine, continued, next_token
from potluck.coordinator.generation.small_model import SmallModel
from potluck.node.guessing import Guessing
from potluck.wire.guessing import FromGuesser, Loaded, Ping, Pong, ToGuesser

PROMPT = [5, 6, 7]


class Late:
    """A small model at the end of a line over which what it says is delivered when the test wants."""

    def __init__(self) -> None:
        self.model = SmallModel("Toy", context=1000, vocabulary=IDS)
        self.said: list[FromGuesser] = [Loaded()]
        self._told: list[ToGuesser] = []
        self._arrived: asyncio.Queue[FromGuesser] = asyncio.Queue()
        self._guessing = Guessing(cast(Any, TextEngine(4, 2000)), IDS, self.said.append, lambda: 0.0)
        self.talk = asyncio.create_task(self.model.converse(self._arrived.get, self._told.append))

    def compute(self) -> None:
        """Hear what it was told, and guess as long as it is wanted."""
        for message in self._told:
            if isinstance(message, Ping):
                self.said.append(Pong())
            else:
                self._guessing.take(message)
        self._told.clear()
        while self._guessing.is_wanted:
            self._guessing.run()

    async def deliver(self) -> None:
        for message in self.said:
            self._arrived.put_nowait(message)
        self.said.clear()
        for _ in range(50):
            await asyncio.sleep(0)
        assert not self.talk.done(), self.talk.exception()


def test_it_tells_again_what_it_holds_when_an_answer_takes_the_turn_that_it_guessed() -> None:
    async def test() -> None:
        late = Late()
        await late.deliver()
        guesser, right = late.model.open(), continued(PROMPT, 60)
        for ahead in range(9):
            asking = asyncio.create_task(guesser.guess([*PROMPT, *right[:ahead]], ahead))
            await asyncio.sleep(0)
            late.compute()
            await late.deliver()
            assert await asking == right[ahead]
        place = 9
        while True:  # until it waits for what is on its way
            asking = asyncio.create_task(guesser.guess([*PROMPT, *right[:place]], 8))
            await asyncio.sleep(0)
            late.compute()
            if not asking.done():
                break
            place += 1
        asking.cancel()
        asking = asyncio.create_task(guesser.guess([*PROMPT, *right[: place + 1]], 0))
        await asyncio.sleep(0)
        late.compute()
        await late.deliver()
        assert await asking == right[place + 1]
        late.talk.cancel()

    run(test())


@pytest.mark.parametrize("seed", range(40))
def test_answers_in_bursts_and_late_guesses_never_end_it(seed: int) -> None:
    async def test() -> None:
        chance, late = Random(seed), Late()
        await late.deliver()
        guesser, known, ahead = late.model.open(), list(PROMPT), list[int]()
        wrong, punctual = chance.choice([0.0, 0.05, 0.3]), chance.choice([0.02, 0.1, 0.3])
        asking: asyncio.Task[int | None] | None = None
        for _ in range(1500):
            if asking is None and len(ahead) < 8:
                asking = asyncio.create_task(guesser.guess([*known, *ahead], len(ahead)))
            await asyncio.sleep(0)
            late.compute()
            if chance.random() < punctual:
                await late.deliver()
            if asking is not None and asking.done():
                ahead += [token for token in (asking.result(),) if token is not None]
                asking = None
            if chance.random() < 0.15:
                known.append((next_token(known) + (chance.random() < wrong)) % IDS)
                if ahead and ahead.pop(0) == known[-1]:
                    continue
                ahead.clear()
                if asking is not None:
                    asking.cancel()
                    asking = None
        if asking is not None:
            asking.cancel()
        late.talk.cancel()

    run(test())
