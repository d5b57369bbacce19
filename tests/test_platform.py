"""What differs between systems: the branches of the other systems run here with fakes, and this system's for real."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from filelock import FileLock

import potluck
from kit import other_system
from kit.processes import PYTHON, finish, python, speaking
from potluck import platform
from potluck.errors import PotluckError
from potluck.local import HANG_S

SOURCE = Path(potluck.__file__).parent
KNOWING = re.compile(
    r"\b(fcntl|msvcrt|sched_[gs]et|import (resource|pwd|grp|termios))|/proc\b|/sys/|sys\.platform|os\.name\b|"
    r"SIGUSR|SIGPROF|SIGBREAK|setitimer|AF_UNIX|os\.(fork|kill|nice|get(e?uid|login|pgid)|pread|pwrite|setsid)\b|getpass"
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot play the other systems.")

Play = Callable[[str], None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Lets the module believe that it runs on another system, which lacks what is not faked besides."""

    def become(system: str) -> None:
        monkeypatch.setattr(platform, "sys", SimpleNamespace(platform=system))

    return become


def test_no_other_file_knows_which_systems_there_are() -> None:
    found = {
        file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if KNOWING.search(file.read_text("utf-8"))
    }
    assert found == {"platform.py"}


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_everything_is_imported_and_works_on_another_system(system: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = json.loads(python("-m", other_system.__name__, system, tmp_path, env=env))
    assert int(told.pop("modules")) > 200
    assert told == {
        "machine": "None",
        "cores": "taken in turn",
        "orders": "heard",
        "key": "two",
        "bounds": "set",
        "pages": "0",
        "permit": "it runs on battery",
        "end": "ended",
    }


# ---- processors


def test_the_cores_of_this_machine_are_among_its_cpus() -> None:
    cores, allowed = platform.usable_cores(), platform.allowed_cpus()
    assert cores
    assert allowed is None or set(cores) <= set(allowed)


@pytest.mark.parametrize(
    ("fast", "cores"),
    [("6", 6), ("", 10)],  # with slow cores beside them; all alike
)
def test_of_apples_cores_the_fast_ones_are_used(
    play: Play, monkeypatch: pytest.MonkeyPatch, fast: str, cores: int
) -> None:
    play("darwin")
    monkeypatch.setattr(platform, "_sysctl", {"hw.perflevel0.physicalcpu": fast}.__getitem__)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 10)
    assert platform.usable_cores() == list(range(cores))
    assert platform.allowed_cpus() is None
    assert platform.thread_cpus() is None


def test_on_windows_cores_are_counted_within_what_the_process_may_use(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    play("win32")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_affinity=lambda: [5, 4, 7, 6]))
    assert platform.usable_cores() == [0, 1, 2, 3]
    assert platform.allowed_cpus() == [4, 5, 6, 7]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_where_threads_cannot_be_bound_nothing_happens(system: str) -> None:
    before = platform.thread_cpus()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "sys", SimpleNamespace(platform=system))
        platform.bind_thread({1 << 20})  # Linux would refuse this one
    assert platform.thread_cpus() == before


def test_a_mac_names_its_processor_and_windows_does_at_least(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play("darwin")
    facts = {"machdep.cpu.brand_string": "Intel(R) Core(TM) i7", "machdep.cpu.features": "SSE4.2 AVX2"}
    monkeypatch.setattr(platform, "_sysctl", facts.__getitem__)
    assert platform.processor() == ("Intel(R) Core(TM) i7", "sse4.2 avx2")
    play("win32")
    monkeypatch.setattr(platform, "processor_name", lambda: "Intel64 Family 6")
    assert platform.processor() == ("Intel64 Family 6", "")


# ---- power


LAPTOP = {"type": "Battery", "status": "Discharging"}
MOUSE = {"type": "Battery", "scope": "Device", "status": "Discharging"}
PLUGGED, UNPLUGGED = {"type": "Mains", "online": "1"}, {"type": "Mains", "online": "0"}


@pytest.mark.parametrize(
    ("supplies", "on_battery"),
    [
        ({}, False),
        ({"BAT0": LAPTOP}, True),
        ({"BAT0": LAPTOP, "AC": UNPLUGGED}, True),
        ({"BAT0": LAPTOP, "AC": PLUGGED}, False),  # a weak charger: the battery helps
        ({"BAT0": {"type": "Battery", "status": "Full"}, "AC": UNPLUGGED}, False),
        ({"BAT0": {"type": "Battery", "status": "Not charging"}, "BAT1": LAPTOP}, True),
        ({"BAT0": LAPTOP, "ucsi-source-psy-1": {"type": "USB", "online": "1"}}, False),
        ({"hidpp_battery_0": MOUSE}, False),
        ({"hidpp_battery_0": MOUSE, "BAT0": {"type": "Battery", "status": "Charging"}}, False),
        ({"BAT0": {}}, False),  # it was just taken out
    ],
)
def test_linux_tells_a_laptops_battery_from_others(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, supplies: dict[str, dict[str, str]], on_battery: bool
) -> None:
    play("linux")
    for name, facts in supplies.items():
        folder = tmp_path / "class" / "power_supply" / name
        folder.mkdir(parents=True)
        for fact, value in facts.items():
            (folder / fact).write_text(f"{value}\n")
    monkeypatch.setattr(platform, "SYS", tmp_path)
    assert platform.on_battery() == on_battery


@pytest.mark.parametrize("system", ["darwin", "win32"])
@pytest.mark.parametrize(
    ("battery", "on_battery"),
    [
        (None, False),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=None), False),
        (SimpleNamespace(power_plugged=False), True),
    ],
)
def test_elsewhere_psutil_tells(
    play: Play, monkeypatch: pytest.MonkeyPatch, system: str, battery: object, on_battery: bool
) -> None:
    play(system)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery)
    assert platform.on_battery() == on_battery


# ---- bounds


def test_without_a_kernels_limit_a_process_that_takes_too_much_ends(tmp_path: Path) -> None:
    code = (
        "from types import SimpleNamespace; from potluck import platform\n"
        "platform.sys = SimpleNamespace(platform='darwin')\n"
        "platform.bound_memory(32 << 20)\n"
        "kept = []\n"
        "while True: kept.append(bytearray(b'x' * (1 << 20))); platform.time.sleep(0.001)\n"
    )
    assert finish(*PYTHON, "-c", code).returncode == platform.OUT_OF_MEMORY


def test_within_its_limit_a_process_lives_on() -> None:
    code = (
        "from types import SimpleNamespace; from potluck import platform\n"
        "platform.sys = SimpleNamespace(platform='darwin')\n"
        "platform._MEMORY_LOOK_S = 0.001\n"
        "platform.bound_memory(1 << 30); platform.time.sleep(0.05); print('alive')\n"
    )
    assert python("-c", code) == "alive\n"


def test_windows_has_classes_of_priority_and_no_descriptors(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play("win32")
    given = list[int]()
    monkeypatch.setattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 0x4000, raising=False)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(nice=given.append))
    platform.step_back()
    assert given == [0x4000]
    assert platform.most_descriptors(1000) == 1000
    with platform.processor_bound(0.0):  # only the parent's clock bounds it
        pass


def test_no_more_descriptors_are_had_than_wanted() -> None:
    assert 0 < platform.most_descriptors(100) <= 100


# ---- signals and processes


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_a_signal_is_handled_by_the_loop_and_only_within_the_block(play: Play, system: str) -> None:
    play(system)

    async def test() -> list[str]:
        heard, over = list[str](), asyncio.Event()

        def act() -> None:
            heard.append("act")
            over.set()

        with platform.handling({signal.SIGINT: act}):
            signal.raise_signal(signal.SIGINT)
            assert heard == []  # not amid what runs
            await asyncio.wait_for(over.wait(), HANG_S)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return heard

    before, loop = signal.signal(signal.SIGINT, signal.default_int_handler), asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(test()) == ["act"]
    finally:
        loop.close()
        signal.signal(signal.SIGINT, before)


def test_windows_ends_programs_with_ctrl_break(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    play("win32")
    monkeypatch.setattr(signal, "SIGBREAK", 21, raising=False)
    monkeypatch.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    sent: Any = []
    platform.interrupt(SimpleNamespace(send_signal=sent.append))  # type: ignore[arg-type]
    assert (platform.ending_signals(), platform.own_group()) == ((signal.SIGINT, 21), {"creationflags": 0x200})
    assert sent == [1]


def test_a_process_that_is_no_more_or_anothers_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    assert not platform.is_stopped(os.getpid())
    assert not platform.is_stopped(1 << 30)
    monkeypatch.setattr(psutil, "Process", refuse)
    assert not platform.is_stopped(1)


# ---- files


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_a_lock_is_anothers_until_it_is_given_back(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str
) -> None:
    monkeypatch.setitem(sys.modules, "msvcrt", other_system.file_locks())
    play(system)
    path = tmp_path / "lock"
    path.touch()
    with path.open("r+b", buffering=0) as one, path.open("r+b", buffering=0) as other:
        assert platform.try_lock(one)
        assert not platform.try_lock(other)
        platform.unlock(one)
        assert platform.try_lock(other)
    assert path.read_bytes() == b""


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    code = (
        "import sys; from potluck import platform\n"
        "file = open(sys.argv[1], 'r+b'); print(platform.try_lock(file), flush=True); sys.stdin.read()\n"
    )
    with path.open("r+b") as file:
        with speaking(*PYTHON, "-c", code, path) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "True\n"
            assert not platform.try_lock(file)
            child.kill()
        assert platform.try_lock(file)


@pytest.mark.parametrize(("system", "left"), [("linux", []), ("win32", ["lock"])])
def test_windows_leaves_it_to_the_lock_to_remove_its_file(
    play: Play, tmp_path: Path, system: str, left: list[str]
) -> None:
    play(system)
    with FileLock(tmp_path / "lock"):
        platform.remove_lock(tmp_path / "lock")
        assert [file.name for file in tmp_path.iterdir()] == left


class Guarded(type(Path())):  # type: ignore[misc]
    """A file that another program has open for some tries."""

    tries = 0

    def replace(self, target: Any) -> Any:
        type(self).tries -= 1
        if self.tries >= 0:
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        return super().replace(target)


@pytest.mark.parametrize(("system", "tries", "comes"), [("win32", 3, True), ("win32", 99, False), ("linux", 1, False)])
def test_a_file_that_is_open_is_replaced_as_soon_as_windows_allows_it(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, tries: int, comes: bool
) -> None:
    play(system)
    monkeypatch.setattr(platform, "_REPLACE_S", 0.0)
    monkeypatch.setattr(Guarded, "tries", tries)
    fresh, path = Guarded(tmp_path / "fresh"), tmp_path / "old"
    fresh.write_text("new")
    path.write_text("old")
    if comes:
        platform.replace(fresh, path)
    else:
        said = "another program has it open" if system == "win32" else "Access is denied"
        with pytest.raises(PermissionError, match=said):
            platform.replace(fresh, path)
    assert path.read_text() == ("new" if comes else "old")


def test_a_folder_of_this_user_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = platform.user_folder("nodes")
    assert platform.user_folder("nodes") == folder
    assert not platform.is_seen_by_others(folder)
    folder.chmod(0o755)
    with pytest.raises(PotluckError, match="is not yours alone: remove it"):
        platform.user_folder("nodes")


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform.tempfile, "gettempdir", lambda: str(tmp_path))
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    (tmp_path / f"nodes-{platform.user_number()}").symlink_to(mine)
    with pytest.raises(PotluckError, match="is not yours alone"):
        platform.user_folder("nodes")


def test_windows_keeps_its_own_rules_of_access(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play("win32")
    monkeypatch.setattr(platform.tempfile, "gettempdir", lambda: str(tmp_path))
    tmp_path.chmod(0o777)
    assert platform.user_folder("nodes") == tmp_path / "nodes"
    assert not platform.is_seen_by_others(tmp_path)
    assert platform.is_mine(tmp_path)
