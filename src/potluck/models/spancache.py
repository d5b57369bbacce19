"""Bounds the disk that the span files of one node take, whatever spans and models its coordinator asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from potluck.models.spanfile import finished_path, lock_path, part_path

log = logging.getLogger(__name__)


class SpanCache:
    """The span files, finished or not, that this node has used since it started. Only the latest ones are kept.

    most: the number of files to keep. A file that another node of this machine has used since belongs to that node.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed: dict[Path, int] = {}
        """When this node left each file, the latest last."""

    @contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """Make room for the span file at this path, which is written or used in the block."""
        self._changed.pop(path, None)
        while len(self._changed) >= self._most:
            oldest = next(iter(self._changed))
            _remove(oldest, self._changed.pop(oldest))
        try:
            yield
        finally:
            if (changed := _last_change(path)) is not None:
                self._changed[path] = changed


def _last_change(path: Path) -> int | None:
    found = [each.stat().st_mtime_ns for each in (path, part_path(path)) if each.exists()]
    return max(found, default=None)


def _remove(path: Path, changed: int) -> None:
    try:
        with FileLock(lock_path(path), timeout=0):
            if _last_change(path) == changed:
                for each in (path, part_path(path), finished_path(path)):
                    each.unlink(missing_ok=True)
    except Timeout:
        log.info("%s is kept, because another node is writing it.", path)
    except OSError as error:
        log.warning("%s cannot be removed: %s.", path, error.strerror or error)
