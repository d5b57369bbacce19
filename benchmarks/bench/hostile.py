"""The process of a node that lies, which runs `benchmarks/hostile_node.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from potluck.types import Span

SCRIPT = Path(__file__).parents[1] / "hostile_node.py"


class HostileNode:
    """A node that lies. stays: for each stay that has ended, whether the node was caught and how often it had lied."""

    def __init__(self, url: str, span: Span, model: Path, **options: object) -> None:
        flags = []
        for option, value in options.items():
            flags += [f"--{option}"] if value is True else [f"--{option}", str(value)]
        self.stays: list[tuple[bool, int]] = []
        self.ready = threading.Event()
        self._popen = subprocess.Popen(
            [sys.executable, str(SCRIPT), url, str(span), "--model", str(model), *flags],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            word, _, count = line.partition(" ")
            if word in ("CAUGHT", "FREE"):
                self.stays.append((word == "CAUGHT", int(count)))
            elif word == "Serving":
                self.ready.set()

    def __enter__(self) -> HostileNode:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.terminate()
        self._popen.wait()
