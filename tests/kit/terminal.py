"""A command in a terminal, as a person sees it and types into it."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from kit.processes import POTLUCK
from potluck.local import HANG_S


class Terminal:
    """A command in a terminal of 100 columns; program: other than `potluck`."""

    def __init__(self, *command: str, program: Sequence[str] = POTLUCK, **environ: str) -> None:
        self._own, theirs = pty.openpty()
        env = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm", **environ}
        self.process = subprocess.Popen([*program, *command], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        os.set_blocking(self._own, False)
        self._shown = b""

    def shows(self, text: str) -> bool:
        """Whether it did, at some time."""
        with suppress(OSError):  # nothing new, or it has ended
            self._shown += os.read(self._own, 1 << 16)
        return text.encode() in self._shown

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    @contextmanager
    def open(self) -> Iterator[Terminal]:
        try:
            yield self
        finally:
            self.process.kill()
            self.process.wait(HANG_S)
            os.close(self._own)
