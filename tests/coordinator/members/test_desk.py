import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import potluck.coordinator
from kit.runner import run, run_leaping
from potluck.coordinator.members import desk as desk_module
from potluck.coordinator.members.desk import PATIENCE_S, Desk, Desks
from potluck.errors import StoreError


def test_what_one_desk_does_makes_no_other_wait() -> None:
    async def test() -> None:
        desks, released = Desks(), threading.Event()
        stuck = [
            asyncio.ensure_future(desk.ask(released.wait))
            for desk in (desks.door, desks.books, desks.owner, desks.accounts)
            for _ in range(50)
        ]
        loop = asyncio.get_running_loop()
        stuck += [asyncio.ensure_future(loop.run_in_executor(None, released.wait)) for _ in range(100)]
        assert await desks.keys.ask(lambda number, plus: number + plus, 1, plus=2) == 3
        assert not any(future.done() for future in stuck)
        released.set()
        await asyncio.gather(*stuck)
        desks.close()

    run(test())


def test_an_error_comes_to_whoever_asked() -> None:
    async def test() -> None:
        with pytest.raises(ZeroDivisionError):
            await Desk("books").ask(divmod, 1, 0)

    run(test())


class Loopdesk(Desk):
    """A desk without threads, for a loop whose time leaps."""

    async def ask(self, work, *args, **named):
        return work(*args, **named)


AWAY = StoreError("The database failed: refused.", is_away=True)


def failing(*errors: StoreError | None) -> Callable[[], str]:
    """Work that fails with these errors, one after the other, and then with the last one."""
    left = list(errors)

    def work() -> str:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return "done"

    return work


async def seconds_of(desk: Desk, work: Callable[[], str]) -> tuple[str, float]:
    """What the work says in the end, and after how many seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        said = await desk.ask_until(began + PATIENCE_S, work)
    except StoreError as error:
        said = str(error)
    return said, loop.time() - began


def test_work_waits_for_a_database_that_is_away_but_not_for_ever_and_for_no_other_failure(caplog) -> None:
    caplog.set_level("INFO", desk_module.__name__)

    async def test() -> None:
        desk = Loopdesk("keys")
        full = StoreError("The database failed: disk full.")
        assert await seconds_of(desk, failing(*[AWAY] * 8, None)) == ("done", pytest.approx(2.0, abs=0.1))
        assert await seconds_of(desk, failing(full)) == (str(full), pytest.approx(0.0))
        said, took = await seconds_of(desk, failing(AWAY))
        assert said == str(AWAY)
        assert PATIENCE_S - 0.5 < took <= PATIENCE_S

    run_leaping(test())
    away = "The database failed: refused. Requests wait for it."
    assert caplog.messages == [away, "The database is back.", away]


def test_a_closed_desk_has_no_threads() -> None:
    desks, others = Desks(), set(threading.enumerate())  # those of other tests end when Python finds them

    def named() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread in ours]

    run(desks.door.ask(int))
    ours = {thread for thread in threading.enumerate() if thread.name.startswith("potluck-door")} - others
    assert named()
    desks.close()
    assert not named()


def test_who_may_come_in_and_what_is_owed_never_waits_for_the_threads_of_everybody() -> None:
    folder = Path(potluck.coordinator.__file__).parent
    asks = [*folder.glob("members/*.py"), *folder.glob("gateway/*.py")]
    asks += [folder / "http" / name for name in ("auth.py", "admin.py", "account.py", "office.py")]
    assert len(asks) > 20
    sources = {path.name: path.read_text("utf-8") for path in asks}
    assert [name for name, text in sources.items() if "to_thread" in text or "run_in_executor(None" in text] == []
