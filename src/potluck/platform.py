"""What Linux, macOS and Windows do differently. No other file asks which system this is, or calls what only some have.

What a system cannot do is said in the docstring of the function, and docs/systems.md has the list.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from platform import machine
from platform import processor as processor_name
from typing import IO, Any

import psutil

from potluck.errors import PotluckError

SYS = Path("/sys")
PROC = Path("/proc")

OUT_OF_MEMORY = 77
"""The exit code of a process that met its bound of memory. What it had taken may not all be free again, so it ends."""

TIME_UP = None if sys.platform == "win32" else -signal.SIGPROF
"""What `subprocess` tells of a process that met its bound of processor time; None where there is no such bound."""

_OTHERS = 0o077
"""The mode bits of everyone but the owner."""

_MADV_COLLAPSE = 25  # Linux 6.1 and later

_LOCK_AT = 1 << 30
"""The place in a file that is locked on Windows, where nobody else can read what is locked."""

_REPLACE_TRIES, _REPLACE_S = 20, 0.05
_MEMORY_LOOK_S = 0.1
_TOOL_S = 10.0


def system() -> str:
    """This system in Python's words: "linux", "darwin" or "win32"."""
    return sys.platform


def thread_cpus() -> set[int] | None:
    """The CPUs on which the calling thread may run; None where threads cannot be bound to CPUs (all but Linux)."""
    return set(os.sched_getaffinity(0)) if sys.platform == "linux" else None


def bind_thread(cpus: Collection[int]) -> None:
    """Let the calling thread run on these CPUs only. Does nothing where `thread_cpus` gives None."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, cpus)


def allowed_cpus() -> list[int] | None:
    """The CPUs on which this process may run, hyper-threads included; None means all."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    if sys.platform == "win32":
        return sorted(psutil.Process().cpu_affinity())
    return None


def usable_cores() -> list[int]:
    """The CPUs that this process may use, by the system's numbers: one for each core, because hyper-threads only
    disturb. On macOS and Windows, which do not bind threads, these are the first numbers.
    """
    allowed = allowed_cpus()
    if sys.platform == "linux":
        assert allowed is not None
        return sorted({min(_siblings(cpu).intersection(allowed), default=cpu) for cpu in allowed})
    count = _fast_cores() or psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return list(range(count if allowed is None else min(count, len(allowed))))


def _siblings(cpu: int) -> set[int]:
    """The CPU and its hyper-threads, from Linux's list such as "0,4" or "0-1"."""
    path = SYS / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    if not path.exists():
        return {cpu}
    ranges = [[int(end) for end in part.split("-")] for part in path.read_text("utf-8").split(",")]
    return {one for ends in ranges for one in range(ends[0], ends[-1] + 1)}


def _fast_cores() -> int:
    """The performance cores of Apple's processors: the engine's threads wait for each other, and so for the slowest. 0
    if there is only one kind.
    """
    return int(_sysctl("hw.perflevel0.physicalcpu") or 0) if sys.platform == "darwin" else 0


def _sysctl(name: str) -> str:
    """What macOS knows by this name; "" if it does not know it."""
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, timeout=_TOOL_S, check=False)
    return done.stdout.decode("utf-8", "replace").strip()


def processor() -> tuple[str, str]:
    """The processor's name, and its features in the system's words; "" where the system does not list them."""
    if sys.platform == "linux":
        told = _cpuinfo()
        model = told.get("model name", processor_name() or machine())
        return model, told.get("flags", told.get("Features", ""))
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or machine(), _sysctl("machdep.cpu.features").lower()
    return processor_name() or machine(), ""


def _cpuinfo() -> dict[str, str]:
    """Linux's description of the first CPU."""
    path = PROC / "cpuinfo"
    first = path.read_text("utf-8").partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def on_battery() -> bool:
    """Whether this machine runs on its battery. False if it has none, or if the system cannot tell."""
    if sys.platform == "linux":
        return _linux_on_battery(SYS / "class/power_supply")
    battery = psutil.sensors_battery()
    return battery is not None and battery.power_plugged is False


def _linux_on_battery(folder: Path) -> bool:
    """Read from Linux's list of supplies. psutil would take the battery of a wireless mouse for that of the machine."""
    supplies = list(folder.iterdir()) if folder.is_dir() else []
    batteries = [
        each for each in supplies if _fact(each, "type") == "Battery" and _fact(each, "scope") in ("", "System")
    ]
    lines = [each for each in supplies if _fact(each, "type") in ("Mains", "USB")]
    if any(_fact(line, "online") == "1" for line in lines):
        return False
    return any(_fact(battery, "status") == "Discharging" for battery in batteries)


def _fact(supply: Path, name: str) -> str:
    try:
        return (supply / name).read_text("utf-8").strip()
    except OSError:  # it does not have this one, or was just unplugged
        return ""


def memory_maps() -> str:
    """Linux's list of this process's memory; "" on other systems."""
    return (PROC / "self/maps").read_text("utf-8") if sys.platform == "linux" else ""


def collapse(address: int, nbytes: int) -> bool:
    """Move this memory of the process into a huge page. Returns whether it was moved; only Linux 6.1 or later does."""
    if sys.platform != "linux":
        return False
    moved: int = ctypes.CDLL(None).madvise(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), _MADV_COLLAPSE)
    return moved == 0


def step_back() -> None:
    """Let other processes have the processor first."""
    if sys.platform == "win32":
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        os.nice(10)


@contextmanager
def processor_bound(seconds: float) -> Iterator[None]:
    """The kernel ends this process if the block takes more processor time.

    On Windows only the parent's time limit can do this.

    This is a timer and not RLIMIT_CPU, which counts whole seconds since the start of the process.
    """
    if sys.platform == "win32":
        yield
        return
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def bound_memory(more: int) -> None:
    """Let this process take this many bytes more than it has now.

    On Linux it has a MemoryError beyond that. Other systems have no such limit: there a thread looks ten times a
    second, and ends the process with the status OUT_OF_MEMORY.
    """
    if sys.platform == "linux":
        import resource

        most = psutil.Process().memory_info().vms + more
        with suppress(ValueError):  # its owner allows it less already
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return
    threading.Thread(target=_end_beyond, args=(_resident() + more,), daemon=True).start()


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _end_beyond(most: int) -> None:
    while _resident() <= most:
        time.sleep(_MEMORY_LOOK_S)
    os._exit(OUT_OF_MEMORY)


def most_descriptors(wanted: int) -> int:
    """The number of files and sockets that this process may have, after raising its limit up to the number wanted."""
    if sys.platform == "win32":
        return wanted  # sockets are no descriptors there
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals with which people and systems end a program: Ctrl-C, and SIGTERM or Windows' Ctrl-Break."""
    if sys.platform == "win32":
        return signal.SIGINT, signal.SIGBREAK
    return signal.SIGINT, signal.SIGTERM


def ignore_interrupts() -> None:
    """Let Ctrl-C, which reaches children as well, leave this process alone, because its parent says when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)


@contextmanager
def handling(actions: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """While the block runs, the running event loop does these actions at these signals, and never amid something else.

    Python's own handlers would raise a second Ctrl-C wherever the program happens to be.
    """
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        for sign, act in actions.items():
            loop.add_signal_handler(sign, act)
        try:
            yield
        finally:
            for sign in actions:
                loop.remove_signal_handler(sign)
        return

    def later(sign: int, _: object) -> None:
        loop.call_soon_threadsafe(actions[signal.Signals(sign)])

    before = {sign: signal.signal(sign, later) for sign in actions}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def own_group() -> dict[str, Any]:
    """Options of `subprocess.Popen` for a child that a Ctrl-C in the terminal does not reach, and `interrupt` does."""
    # A session of its own would also do, but Linux then schedules each child as a group, against the others.
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


def interrupt(process: subprocess.Popen[str]) -> None:
    """Interrupt a child of an `own_group` as Ctrl-C does."""
    if sys.platform == "win32":
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.send_signal(signal.SIGINT)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped, as Ctrl-Z does, and is not over."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:  # it is no more, or it is another person's that has its number now
        return False


def try_lock(file: IO[bytes]) -> bool:
    """Take the lock of an open file if no other opener has it. The system gives it back when the process ends.

    Locks are taken for each token; `filelock` opens its file each time, which takes ten times as long.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_LOCK_AT)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCK_AT)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


@cache
def prepare_libraries() -> None:
    """Let Windows find what the package msvc-runtime puts into the environment, which native libraries need there."""
    if sys.platform == "win32":
        os.add_dll_directory(sys.prefix)


def user_number() -> int:
    """The number that the system gives this user; 0 on Windows, which gives none."""
    return 0 if sys.platform == "win32" else os.getuid()


def user_folder(name: str) -> Path:
    """A folder of this name for this user's processes, among the temporary files; only the user can look into it.

    Raises PotluckError when somebody else has made it.
    """
    if sys.platform == "win32":  # there, each user has a folder of temporary files
        folder = Path(tempfile.gettempdir()) / name
        folder.mkdir(exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"{name}-{user_number()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != user_number() or state.st_mode & _OTHERS:
        raise PotluckError(f"{folder} is not yours alone: remove it, or set TMPDIR to a folder of your own.")
    return folder


def is_seen_by_others(path: Path) -> bool:
    """Whether others than its owner may use the file or folder. Windows keeps its own rules, so there this is False."""
    return sys.platform != "win32" and bool(path.stat().st_mode & _OTHERS)


def is_mine(path: Path) -> bool:
    """Whether this user owns the file or folder."""
    return sys.platform == "win32" or path.stat().st_uid == os.geteuid()


def remove_lock(path: Path) -> None:
    """Remove the file of a `filelock.FileLock` that this process holds.

    Windows lets nobody remove a file that is open; there the lock's release removes it.
    """
    if sys.platform != "win32":
        path.unlink(missing_ok=True)


def replace(fresh: Path, path: Path) -> None:
    """Put the fresh file in the place of the other one, in one go.

    Windows refuses this as long as any program has the other one open, such as a virus scanner that looks at it: it is
    tried for a second. Raises OSError, which says so.
    """
    for left in reversed(range(_REPLACE_TRIES if sys.platform == "win32" else 1)):
        try:
            fresh.replace(path)
        except PermissionError as error:
            if sys.platform == "win32" and not left:
                raise PermissionError(error.errno, "another program has it open", str(path)) from error
            if not left:
                raise
            time.sleep(_REPLACE_S)
        else:
            return
