import os
import sys
import threading
from pathlib import Path

import pytest

from potluck.engine import openmp

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="This system cannot bind threads.")


EVERYWHERE = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()


def places() -> dict[int, set[int]]:
    """Of each thread of this process, the CPUs it may run on."""
    return {int(task.name): os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()}


def in_a_thread(function) -> None:
    """OpenMP keeps a team for each thread that calls it: this one ends with the thread."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 — raised again below
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(20)
    if failures:
        raise failures[0]


@pytest.mark.skipif(len(EVERYWHERE) < 2, reason="There is only one CPU.")
@pytest.mark.skipif(openmp._runtime() is None or not sys.platform.startswith("linux"), reason="No libgomp here.")
def test_each_thread_of_a_team_has_a_cpu_of_its_own() -> None:
    def check() -> None:
        first, second, *_ = sorted(EVERYWHERE)
        before = places()
        openmp.bind((second, first))
        assert os.sched_getaffinity(0) == {second}
        assert [place for thread, place in places().items() if thread not in before] == [{first}]
        openmp.bind((first,))
        assert os.sched_getaffinity(0) == EVERYWHERE
        openmp.bind((first, second))
        openmp.let_go()
        assert os.sched_getaffinity(0) == EVERYWHERE

    in_a_thread(check)


def test_cpus_that_do_not_exist_bind_nothing() -> None:
    def check() -> None:
        openmp.bind((1 << 16, (1 << 16) + 1))
        assert os.sched_getaffinity(0) == EVERYWHERE

    in_a_thread(check)


def test_a_thread_that_its_owner_has_bound_stays_there() -> None:
    def check() -> None:
        mine = {min(EVERYWHERE)}
        os.sched_setaffinity(0, mine)
        for cpus in (tuple(mine), tuple(EVERYWHERE | {1 << 16})):
            openmp.bind(cpus)
            assert os.sched_getaffinity(0) == mine
        openmp.let_go()
        assert os.sched_getaffinity(0) == mine

    in_a_thread(check)
