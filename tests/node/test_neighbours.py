import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.processes import python
from potluck.node import neighbours as module
from potluck.node.neighbours import Neighbours, computing, follow, local_nodes, registered


@pytest.mark.parametrize(
    ("now", "most", "free", "threads"),
    [
        (2, 2, 2.0, 2),
        (2, 2, 1.6, 2),  # a browser, or the coordinator: no reason to change
        (2, 2, 1.3, 1),
        (2, 2, -0.5, 1),
        (1, 2, 1.4, 1),
        (1, 2, 1.7, 2),
        (8, 8, 5.2, 5),
        (5, 8, 5.5, 5),
        (5, 8, 6.7, 7),
        (2, 2, 16.0, 2),
        (4, 4, 2.0, 2),
    ],
)
def test_threads_follow_the_free_cores(now: int, most: int, free: float, threads: int) -> None:
    assert follow(now, most, free, free) == threads
    assert follow(now, min(now, most), free, float(now)) == min(now, most)  # one look does not count


@given(st.integers(1, 64), st.integers(1, 64), st.floats(-4, 64))
def test_a_number_of_threads_that_was_found_stays(now: int, most: int, free: float) -> None:
    threads = follow(min(now, most), most, free, free)
    assert 1 <= threads <= most
    assert follow(threads, most, free, free) == threads


class Times:
    def __init__(self, user: float, system: float = 0.0) -> None:
        self.user, self.system, self.idle = user, system, 1e6


class Machine:
    """Two CPUs and one that is not ours, a clock, and the CPU time of one node, set by the test."""

    def __init__(self) -> None:
        self.clock, self.cpus, self.node = 10.0, [100.0, 100.0, 0.0], 50.0


def hold_pid(process: Any, pid: int) -> None:
    process.pid = pid


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(module.time, "perf_counter", lambda: machine.clock)
    monkeypatch.setattr(module.psutil, "cpu_times", lambda percpu: [Times(busy) for busy in machine.cpus])
    node = type("Process", (), {"__init__": hold_pid, "cpu_times": lambda _: Times(machine.node)})
    monkeypatch.setattr(module.psutil, "Process", node)
    return machine


@pytest.fixture
def neighbours(machine: Machine, tmp_path: Path) -> Iterator[Neighbours]:
    watch = Neighbours(2, [0, 1], tmp_path)
    with registered("anna", tmp_path):
        machine.clock, machine.node = 11.0, 51.0
        watch.free_cores()  # from now on the node is known
        yield watch


def test_what_nodes_use_is_free_to_nodes_and_what_others_use_is_not(machine: Machine, neighbours: Neighbours) -> None:
    machine.clock, machine.cpus, machine.node = 13.0, [102.0, 101.0, 3.0], 53.0
    assert neighbours.free_cores() == pytest.approx(1.5)
    assert neighbours.free_cores() == pytest.approx(1.5)  # the clock is coarse and has not moved on
    machine.clock = 15.0
    assert neighbours.free_cores() == pytest.approx(2.0)


@pytest.fixture
def ended() -> int:
    """The number of a process that is no more."""
    return int(python("-c", "import os; print(os.getpid())"))


def test_marks_come_and_go_with_their_processes(tmp_path: Path, ended: int) -> None:
    (tmp_path / f"node-{ended}").touch()
    assert not psutil.pid_exists(ended)
    Neighbours(1, None, tmp_path)
    with registered("anna", tmp_path):
        assert [mark.name for mark in tmp_path.iterdir()] == [f"node-{os.getpid()}"]
    assert list(tmp_path.iterdir()) == []


def test_the_nodes_of_this_machine_are_known_by_name(tmp_path: Path, ended: int) -> None:
    (tmp_path / f"node-{ended}").write_text("gone")
    with registered("anna", tmp_path):
        assert local_nodes(tmp_path) == {os.getpid(): "anna"}
    assert local_nodes(tmp_path) == {}


def test_a_process_that_computes_for_a_node_is_no_other_program_and_no_node(tmp_path: Path, ended: int) -> None:
    with registered("anna", tmp_path), computing(os.getppid(), tmp_path), computing(ended, tmp_path):
        neighbours = Neighbours(4, folder=tmp_path)
        assert neighbours._nodes().keys() == {os.getpid(), os.getppid()}
        assert local_nodes(tmp_path) == {os.getpid(): "anna"}
    assert list(tmp_path.iterdir()) == []
