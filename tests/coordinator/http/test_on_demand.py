"""Offered models at the HTTP API: they are listed from the start, and made when a request needs them."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from kit.runner import run
from potluck.coordinator.http.on_demand import OnDemandService
from potluck.coordinator.http.service import Service
from potluck.coordinator.sessions.demand import ModelState
from potluck.errors import ModelError, Unavailable

SERVICE = cast(Service, object())


class Maker:
    """Makes the service once it is let. fails: how often it cannot."""

    def __init__(self, fails: int = 0) -> None:
        self.let = asyncio.Event()
        self.made = 0
        self._fails = fails

    async def __call__(self) -> Service:
        await self.let.wait()
        self.made += 1
        if self.made <= self._fails:
            raise ModelError("The file is cut off.")
        return SERVICE


def offered(make: Maker, patience_s: float = 60.0) -> OnDemandService:
    return OnDemandService(("one", "first"), 64, 1, lambda: ModelState.OFFERED, make, patience_s)


def test_it_is_made_once_for_all_who_ask_at_the_same_time() -> None:
    async def test() -> None:
        make = Maker()
        model = offered(make)
        waiting = [asyncio.create_task(model.ready()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop().cancel()  # who gives up does not stop it
        make.let.set()
        assert await asyncio.gather(*waiting) == [SERVICE] * 2
        assert await model.ready() is SERVICE
        assert make.made == 1

    run(test())


def test_who_waits_too_long_is_told_and_it_is_made_further() -> None:
    async def test() -> None:
        make = Maker()
        model = offered(make, 0.0)
        with pytest.raises(Unavailable, match=r"^The weights of one are read for the first time: ask again later\.$"):
            await model.ready()
        make.let.set()
        assert model._making is not None
        await model._making
        assert await model.ready() is SERVICE
        assert make.made == 1

    run(test())


def test_what_cannot_be_made_is_tried_again() -> None:
    async def test() -> None:
        make = Maker(fails=1)
        make.let.set()
        model = offered(make)
        with pytest.raises(Unavailable, match=r"^one cannot be loaded: The file is cut off\.$"):
            await model.ready()
        assert await model.ready() is SERVICE

    run(test())
