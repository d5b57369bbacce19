"""A PostgreSQL server of the tests' own, in a temporary folder and on a free port, from Debian's package."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kit.processes import finish, free_port

_USER = "postgres"
"""Whom Debian's package makes: the server refuses to run as root."""


def programs() -> Path | None:
    """The folder of the newest PostgreSQL here; None where there is none."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The URL of an empty database, while it runs; `folder`: of `programs`."""
    home = Path(tempfile.mkdtemp(prefix="potluck-postgres-"))
    password = secrets.token_urlsafe(16)
    (home / "password").write_text(password)
    if os.geteuid() == 0:
        for path in (home, home / "password"):
            shutil.chown(path, _USER)
    data, port = home / "data", free_port()
    options = f"-p {port} -h 127.0.0.1 -k {home} -c fsync=off"
    try:
        login = ["--username=potluck", "--auth=scram-sha-256", f"--pwfile={home / 'password'}"]
        _run(folder / "initdb", "-D", data, *login, "--encoding=UTF8", "--locale=C")
        _run(folder / "pg_ctl", "-D", data, "-l", home / "log", "-w", "start", "-o", options)
        try:
            yield f"postgresql://potluck:{password}@127.0.0.1:{port}/postgres"
        finally:
            _run(folder / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home)


def _run(*command: str | Path) -> None:
    as_user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.geteuid() == 0 else []
    done = finish(*as_user, *command, cwd=Path("/"))
    assert done.returncode == 0, done.stdout + done.stderr
