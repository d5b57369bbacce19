"""How tests start processes: one command to its end, or one that stays until the test ends it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from potluck.local import HANG_S

PYTHON = [sys.executable]
POTLUCK = [*PYTHON, "-m", "potluck"]
LOCAL = ["--local"]
PRIVATE = ["--host", "127.0.0.1"]
OPEN = ["--open", *PRIVATE]
ONE_THREAD = ["--threads", "1"]


def finish(
    *command: object,
    stdin: str = "",
    stderr: int = subprocess.PIPE,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = HANG_S,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; env: all of its environment, else that of this process.

    stderr: subprocess.STDOUT puts what it complains of among what it says.
    """
    return subprocess.run(
        list(map(str, command)),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=cwd,
        env=env,
        timeout=timeout_s,
        check=False,
    )


def python(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a program of this Python prints, which must end well."""
    done = finish(*PYTHON, *arguments, cwd=cwd, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def potluck(
    *arguments: object, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command of Potluck to its end."""
    return finish(*POTLUCK, *arguments, stdin=stdin, env=env)


def speaking(*command: object) -> subprocess.Popen[str]:
    """A process that the test talks with over pipes; as a context it is waited for at the end."""
    pipe = subprocess.PIPE
    return subprocess.Popen(list(map(str, command)), text=True, stdin=pipe, stdout=pipe, stderr=pipe)


@contextmanager
def staying(*command: object, log: Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The command runs meanwhile; what it says goes to the file. env: all of its environment, else this process's."""
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(HANG_S)


def free_port() -> int:
    """A port of this machine for a program that must be told one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def complaint(*arguments: object) -> str:
    """The one sentence with which a command refuses."""
    done = potluck(*arguments)
    assert done.returncode not in (0, -9), done.stdout
    [line] = done.stderr.strip().splitlines()
    assert re.fullmatch(r"potluck: \S.*[.]", line), line
    return line.removeprefix("potluck: ")
