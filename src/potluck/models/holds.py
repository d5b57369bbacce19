"""Tells every process of this machine which span files are in use: each user of a file holds a lock of its own."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from filelock import FileLock, Timeout

from potluck.errors import ModelError
from potluck.models.spanfile import lock_path
from potluck.platform import remove_lock

_NUMBERS = itertools.count()


class Hold:
    """Keeps others from removing a span file, until `release` or the end of the process.

    Raises ModelError when no lock can be made.
    """

    def __init__(self, path: Path) -> None:
        self._lock = lock_path(path).with_suffix(f".{os.getpid()}-{next(_NUMBERS)}.use")
        self._held = FileLock(self._lock, thread_local=False)
        try:
            self._held.acquire()
        except OSError as error:
            raise ModelError(f"{self._lock} cannot be written: {error.strerror or error}.") from error

    def release(self) -> None:
        remove_lock(self._lock)
        self._held.release()


def is_held(path: Path) -> bool:
    """Whether a process uses the file. What a process that has died has left behind is removed."""
    lock = lock_path(path)
    return any(_is_alive(each) for each in lock.parent.glob(f"{lock.stem}.*.use"))


def _is_alive(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            remove_lock(lock)
    except (Timeout, PermissionError):  # it is held, or another person's
        return True
    return False
