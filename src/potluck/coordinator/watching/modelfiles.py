"""Watches the model's files on the coordinator's disk, which others may remove or change while nodes need them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from threading import Lock

log = logging.getLogger(__name__)


class ModelFiles:
    """The files of the model in a folder, as they were when the coordinator started, and what became of them since.

    Several threads may ask.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._folder = folder
        self._first = {name: (folder / name).stat() for name in names}
        self._faults: dict[str, str] = {}
        self._lock = Lock()
        self._written: set[str] = set()
        """The files that were written to, of which the log has told."""

    def check(self, name: str) -> str:
        """What is wrong with the file now, in a sentence; empty if nothing is. The log tells when that changes."""
        fault = self._fault_of(name)
        with self._lock:
            known = self._faults.pop(name, "")
            if fault:
                self._faults[name] = fault
        if fault and not known:
            log.warning("%s Nodes wait until it is restored, in %s.", fault, self._folder)
        elif known and not fault:
            log.info("%s is again as it was, and nodes fetch it.", name)
        return fault

    @property
    def fault(self) -> str:
        """What is wrong with one of the files that nodes have asked for; empty if nothing is."""
        return next(filter(None, map(self.check, list(self._faults))), "")

    def _fault_of(self, name: str) -> str:
        path, first = self._folder / name, self._first[name]
        try:
            state = path.stat()
            if S_ISREG(state.st_mode):
                path.open("rb").close()
        except FileNotFoundError:
            return f"The coordinator's file {name} is missing."
        except OSError as error:
            return f"The coordinator's file {name} cannot be read: {error.strerror}."
        if not S_ISREG(state.st_mode) or state.st_size != first.st_size:
            return f"The coordinator's file {name} is not the one that it was started with."
        if state.st_mtime_ns != first.st_mtime_ns and self._is_news(name):
            log.warning("%s was written to: if its weights changed, start potluck serve again.", path)
        return ""

    def _is_news(self, name: str) -> bool:
        """Whether the log has not told yet that the file was written to. It is to tell now."""
        with self._lock:
            is_news = name not in self._written
            self._written.add(name)
        return is_news
