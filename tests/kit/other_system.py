"""Plays another system in this process: `python -m kit.other_system win32 FOLDER` imports all of Potluck, and tries it.

Everything is imported first as it is, because the libraries know which system this really is. Then what the other
system lacks is taken away, and Potluck's own files are imported once more.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil

ELSEWHERE = re.compile(r"^(import|from) (torch|alembic)|engine\.(transformers|span_model) import|^main\(\)", re.M)
"""Marks the files of PyTorch, which is optional, of the database's revisions, which Alembic runs, and `__main__`."""

MODULES = {
    "win32": ("fcntl", "resource", "pwd", "grp", "termios", "uvloop"),
    "darwin": (),
}
OF_OS = {
    "win32": ("sched_getaffinity", "sched_setaffinity", "fork", "getuid", "geteuid", "nice", "pread", "pwrite"),
    "darwin": ("sched_getaffinity", "sched_setaffinity"),
}
OF_SIGNAL = {
    "win32": ("SIGUSR1", "SIGUSR2", "SIGPROF", "ITIMER_PROF", "setitimer", "SIGKILL", "SIGHUP", "pthread_sigmask"),
    "darwin": (),
}


def names() -> list[str]:
    """All modules of Potluck, but those of PyTorch and of the database's revisions, which run elsewhere."""
    import potluck

    folder = Path(potluck.__file__).parent
    files = [file for file in sorted(folder.rglob("*.py")) if not ELSEWHERE.search(file.read_text("utf-8"))]
    modules = [".".join(("potluck", *file.relative_to(folder).with_suffix("").parts)) for file in files]
    return [module.removesuffix(".__init__") for module in modules]


def file_locks() -> Any:
    """A stand-in of Windows' `msvcrt`: locks of a file that has been opened, which others cannot take meanwhile."""
    import fcntl

    module: Any = types.ModuleType("msvcrt")
    module.LK_UNLCK, module.LK_NBLCK = 0, 2

    def locking(number: int, mode: int, nbytes: int) -> None:
        assert nbytes == 1
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB if mode else fcntl.LOCK_UN)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error

    module.locking = locking
    return module


def become(system: str) -> None:
    """Take away what the system lacks."""
    windows, loops, ps = file_locks(), cast(Any, asyncio.SelectorEventLoop), cast(Any, psutil)
    for name in MODULES[system]:
        sys.modules[name] = None  # type: ignore[assignment]
    for owner, missing in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in set(missing[system]).intersection(dir(owner)):
            delattr(owner, name)
    if system == "win32":

        def refuse(*_: object) -> None:
            raise NotImplementedError

        sys.modules["msvcrt"] = windows
        signal.SIGBREAK = signal.SIGTERM  # type: ignore[attr-defined]
        loops.add_signal_handler = refuse
        ps.BELOW_NORMAL_PRIORITY_CLASS = 10  # what Linux takes in its place
    sys.platform = system


def cores(folder: Path) -> str:
    """Two nodes take turns."""
    from potluck.node.hardware import Cores

    one, other = Cores(1, folder / "cores"), Cores(1, folder / "cores")
    one._cores = other._cores = one._cores[:1]
    with one.share() as first, other.share(wait=False) as none:
        assert len(first) == 1
        assert none == ()
    with other.share(wait=False) as second:
        assert second == first
    return "taken in turn"


def orders(folder: Path) -> str:
    from potluck.node.neighbours import local_nodes, registered
    from potluck.node.orders import Order, Orders, give

    marks = folder / "marks"
    with registered("anna", marks):
        heard = Orders(marks)
        assert local_nodes(marks) == {os.getpid(): "anna"}
        give(Order.PAUSE, os.getpid(), marks)
        assert heard.fresh() == [Order.PAUSE]
    return "heard"


def key(folder: Path) -> str:
    from potluck.wire.identity import Identity
    from potluck.wire.private import write_private

    path = folder / "Schlüssel für Zoë" / "node.key"
    made = Identity.load(path)
    assert Identity.load(path).public == made.public
    write_private(path.with_suffix(".txt"), b"one")
    write_private(path.with_suffix(".txt"), b"two")
    return path.with_suffix(".txt").read_text("utf-8")


def bounds(_: Path) -> str:
    from potluck.platform import bound_memory, processor_bound, step_back
    from potluck.webserver.server import most_connections

    step_back()
    bound_memory(1 << 32)
    with processor_bound(60.0):
        assert most_connections() > 0
    return "set"


def pages(_: Path) -> str:
    from potluck.node.pages import collapse_large_mappings

    return str(collapse_large_mappings(1))


def permit(_: Path) -> str:
    from potluck import platform
    from potluck.node.permit import Permit

    cast(Any, psutil).sensors_battery = lambda: types.SimpleNamespace(power_plugged=False)
    return str(Permit().refusal(0, 0.0, 0.0, platform.on_battery()))


def end(_: Path) -> str:
    """Ctrl-C ends a command that runs."""
    from potluck.commands.running import run

    said = []

    async def main() -> None:
        over = asyncio.Event()
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await over.wait()
        finally:
            said.append("ended")

    run(main)
    return "".join(said)


def machine(_: Path) -> str:
    from potluck import platform

    platform._sysctl = lambda name: {"hw.perflevel0.physicalcpu": "1"}.get(name, "")
    assert platform.processor()[0]
    assert platform.usable_cores()
    return str(platform.thread_cpus())


PARTS: tuple[Callable[[Path], str], ...] = (machine, cores, orders, key, bounds, pages, permit, end)


def results(system: str, folder: Path) -> Iterator[tuple[str, str]]:
    wanted = names()
    for name in wanted:
        importlib.import_module(name)
    become(system)
    for name in [name for name in sys.modules if name.partition(".")[0] == "potluck"]:
        del sys.modules[name]
    for name in wanted:
        importlib.import_module(name)
    yield "modules", str(len(wanted))
    for part in PARTS:
        yield part.__name__, part(folder)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dict(results(sys.argv[1], Path(sys.argv[2])))))
