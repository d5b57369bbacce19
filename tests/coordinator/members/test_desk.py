import asyncio
import threading
from pathlib import Path

import pytest

import potluck.coordinator
from kit.runner import run
from potluck.coordinator.members.desk import Desk, Desks


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
