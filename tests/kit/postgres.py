"""A PostgreSQL server of the tests' own, in a temporary folder and on a free port, from Debian's package."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from kit.processes import finish, free_port
from potluck.local import HANG_S

_USER = "postgres"
"""Whom Debian's package makes: the server refuses to run as root."""


def programs() -> Path | None:
    """The folder of the newest PostgreSQL here; None where there is none."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


class Server:
    """A server whose files are in `home`. url: of its database."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        self._home = home
        self._data = home / "data"
        self._port = free_port()
        password = secrets.token_urlsafe(16)
        self.url = f"postgresql://potluck:{password}@127.0.0.1:{self._port}/postgres"
        (home / "password").write_text(password)
        if os.geteuid() == 0:
            for path in (home, home / "password"):
                shutil.chown(path, _USER)
        login = ["--username=potluck", "--auth=scram-sha-256", f"--pwfile={home / 'password'}"]
        _run(folder / "initdb", "-D", self._data, *login, "--encoding=UTF8", "--locale=C")

    def start(self) -> None:
        options = f"-p {self._port} -h 127.0.0.1 -k {self._home} -c fsync=off"
        _run(self._folder / "pg_ctl", "-D", self._data, "-l", self._home / "log", "-w", "start", "-o", options)

    def is_running(self) -> bool:
        command = [*_as_user(), self._folder / "pg_ctl", "-D", self._data, "status"]
        return finish(*command, cwd=Path("/")).returncode == 0

    def kill(self) -> None:
        """End the server as a loss of power would, and all that it has started."""
        server = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        parts = [server, *server.children(recursive=True)]
        for part in parts:
            if part.is_running():
                part.send_signal(signal.SIGKILL)
        _, left = psutil.wait_procs(parts, HANG_S)
        assert not left

    def stop(self) -> None:
        _run(self._folder / "pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server with an empty database, which runs; `folder`: of `programs`."""
    home = Path(tempfile.mkdtemp(prefix="potluck-postgres-"))
    try:
        started = Server(folder, home)
        started.start()
        try:
            yield started
        finally:
            started.stop()
    finally:
        shutil.rmtree(home)


def _run(*command: str | Path) -> None:
    done = finish(*_as_user(), *command, cwd=Path("/"))
    assert done.returncode == 0, done.stdout + done.stderr


def _as_user() -> list[str]:
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.geteuid() == 0 else []
