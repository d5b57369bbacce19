import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.processes import PYTHON, speaking
from potluck.local import HANG_S
from potluck.node import hardware
from potluck.node.hardware import Cores, free_memory, physical_cores

TOGETHER = 4
"""Cores that the nodes of a test share, whatever this machine has."""


Node = Callable[[int], Cores]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Makes nodes of one machine, each with the threads that it wants."""
    monkeypatch.setattr(hardware, "usable_cores", lambda: list(range(TOGETHER)))
    made: list[Cores] = []

    def make(threads: int) -> Cores:
        made.append(Cores(threads, tmp_path / "cores"))
        return made[-1]

    yield make
    for cores in made:
        for file in cores._files.values():
            file.close()


def test_this_machine_has_cores_and_memory() -> None:
    assert physical_cores() >= 1
    assert free_memory() > 1 << 20


@pytest.mark.parametrize(("threads", "granted"), [(1, 1), (3, 3), (4, 4)])
def test_alone_a_node_has_the_threads_it_wants(node: Node, threads: int, granted: int) -> None:
    cores = node(threads)
    for _ in range(2):
        with cores.share() as got:
            assert got == tuple(range(granted))


def test_two_nodes_take_turns_on_what_there_is(node: Node) -> None:
    one, other = node(3), node(4)
    with one.share() as first, other.share() as second:
        assert (first, second) == ((0, 1, 2), (3,))
    with other.share() as alone:
        assert len(alone) == 4


def test_cores_are_given_back_when_a_computation_fails(node: Node) -> None:
    one, other = node(4), node(4)
    with pytest.raises(ZeroDivisionError), one.share():
        raise ZeroDivisionError
    with other.share() as granted:
        assert len(granted) == 4


def test_a_node_waits_while_all_cores_are_taken_and_then_proceeds(node: Node) -> None:
    one, other = node(4), node(2)
    begun, got = threading.Event(), list[int]()

    def wait() -> None:
        begun.set()
        with other.share() as threads:
            got.append(len(threads))

    waiter = threading.Thread(target=wait)
    with one.share() as held:
        assert len(held) == 4
        waiter.start()
        assert begun.wait(HANG_S)
        assert got == []
    waiter.join(HANG_S)
    assert not waiter.is_alive()
    assert len(got) == 1
    assert 1 <= got[0] <= 2


def test_who_does_not_wait_gets_none_where_all_cores_are_taken(node: Node) -> None:
    one, other = node(4), node(2)
    with one.share(), other.share(wait=False) as none:
        assert none == ()
    with other.share(wait=False) as cores:
        assert cores == (0, 1)


def test_never_more_threads_than_cores_however_many_nodes(node: Node) -> None:
    running, most, lock, start = 0, 0, threading.Lock(), threading.Barrier(6)

    def compute(wanted: int) -> None:
        nonlocal running, most
        cores = node(wanted)
        start.wait(HANG_S)
        for _ in range(30):
            with cores.share() as taken:
                granted = len(taken)
                with lock:
                    running += granted
                    most = max(most, running)
                with lock:
                    running -= granted

    threads = [threading.Thread(target=compute, args=(1 + number % TOGETHER,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert running == 0
    assert 1 <= most <= TOGETHER


def holding_all(folder: Path, then: str) -> subprocess.Popen[str]:
    """A process that takes all cores, says how many these are, and does this meanwhile."""
    code = (
        "import os, signal, sys; from pathlib import Path; from potluck.node import hardware\n"
        f"hardware.usable_cores = lambda: list(range({TOGETHER}))\n"
        f"with hardware.Cores({TOGETHER}, Path(sys.argv[1])).share() as threads:\n"
        f"    print(len(threads), flush=True); {then}\n"
    )
    return speaking(*PYTHON, "-c", code, folder)


def test_a_process_that_dies_gives_its_cores_back(node: Node, tmp_path: Path) -> None:
    with holding_all(tmp_path / "cores", "sys.stdin.read()") as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == str(TOGETHER)
        child.kill()
    with node(TOGETHER).share() as threads:
        assert len(threads) == TOGETHER


def test_a_stopped_process_keeps_nobody_from_its_cores(node: Node, tmp_path: Path) -> None:
    with holding_all(tmp_path / "cores", "os.kill(os.getpid(), signal.SIGSTOP)") as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == str(TOGETHER)
            with node(2).share() as cores:
                assert cores == (0, 1)
        finally:
            child.kill()


def test_memory_is_read_at_a_rate_that_machines_have() -> None:
    assert 1e8 < hardware.read_rate(1) < 1e13
