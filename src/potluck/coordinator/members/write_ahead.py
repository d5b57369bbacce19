"""A write-ahead log of credits and audits: what a coordinator that was killed had not stored yet, its next run stores.

Each run has a lock, which the system takes from it when it ends, and a file for each batch of its changes, which goes
when the batch is stored. Files are not forced to the disk, so a power cut may still take the last seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
from filelock import FileLock

from potluck.coordinator.members.ledger import Changes, Kind, Settled, Whose
from potluck.errors import StoreError
from potluck.platform import replace, try_lock
from potluck.wire.private import make_folder, open_private

log = logging.getLogger(__name__)

Entry = tuple[Kind, Any, int]
"""What is added to a count of `Changes`: its name, whose it is (a `Whose`), and how much."""
Counts = Counter[tuple[Kind, Whose]]

_NAME = re.compile(r"([0-9a-f]+)\.(?:lock|[0-9]+)")
"""The names of a run's lock and batches."""
_STARTING = "starting"
"""The name of the lock that is held while a run begins."""
_HEAD = 4
"""The bytes that tell how long the entries are that follow."""
_MOST_BYTES = 4 << 20
"""The size at which a file is written anew, with one entry for each count."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


class WriteAhead:
    """The log of one run. folder: that of all runs on this machine, which `starting` has locked.

    run: the run's name, in hex.
    """

    def __init__(self, folder: Path, run: str) -> None:
        """Raises OSError when the folder cannot be written."""
        self._folder = folder
        self._run = run
        self._lock = _locked(folder / f"{run}.lock")
        self._number = 1
        self._file: IO[bytes] | None = None
        self._limit = 0
        self._counts: Counts = Counter()
        """All that belongs to the batch."""
        self._fresh: Counts = Counter()
        """What is written at the end of the loop's turn."""
        self._is_failing = False

    def note(self, kind: Kind, whose: Whose, amount: int) -> None:
        """Note what was added to the changes."""
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._flush)
        self._fresh[kind, whose] += amount

    def turn(self, number: int) -> None:
        """Take what is noted from now on for the batch with this number."""
        self._flush()
        self._close_file()
        self._number = number
        self._counts.clear()

    def drop(self, number: int) -> None:
        """Forget the batch with this number, because it is stored."""
        try:
            self._path(number).unlink(missing_ok=True)
        except OSError as error:  # nothing is stored twice: the database knows its number
            log.warning("%s cannot be removed: %s", self._path(number), error.strerror or error)

    def close(self) -> None:
        """End the run. What is not stored stays for the next one."""
        self._flush()
        self._close_file()
        try:
            self._lock.close()
            _remove_run(self._folder, self._run)
        except OSError as error:
            log.warning("The lock of this run cannot be removed from %s: %s", self._folder, error.strerror or error)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._run}.{number}"

    def _flush(self) -> None:
        fresh, self._fresh = self._fresh, Counter()
        self._counts.update(fresh)
        try:
            if self._file is None or self._file.tell() > self._limit:
                self._write_anew()
            elif fresh:
                _write(self._file, _framed(fresh))
        except OSError as error:
            if not self._is_failing:
                message = "If this coordinator is killed now, credits that are not stored yet are lost: %s"
                log.error(message, error.strerror or error)
            self._is_failing = True
            self._close_file()  # so that all of it is written the next time

    def _write_anew(self) -> None:
        """Write all of the batch, in the place of a file that says less, or the same in more words."""
        self._close_file()
        if not self._counts:
            return
        path = self._path(self._number)
        whole = path.with_suffix(".new")
        with open_private(whole, "wb") as file:
            _write(file, _framed(self._counts))
        replace(whole, path)
        self._file = open_private(path, "ab")
        self._limit = max(_MOST_BYTES, 2 * self._file.tell())
        if self._is_failing:
            log.info("Credits that are not stored yet are kept on the disk again.")
        self._is_failing = False

    def _close_file(self) -> None:
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        except OSError as error:
            log.warning("%s cannot be closed: %s", self._path(self._number), error.strerror or error)


@contextmanager
def starting(folder: Path) -> Iterator[None]:
    """Let no other run begin meanwhile in this folder, which is made if it does not exist. Raises OSError."""
    make_folder(folder)
    with FileLock(folder / _STARTING, mode=0o600):
        yield


def store_left(folder: Path, store: Callable[[str, int, Changes], object], oldest: float) -> None:
    """Store what runs have left that were killed. folder: `starting` has locked it.

    store: stores the changes of a run's batch with a number, once. What fails is logged, and stays.
    oldest: the Unix time before which the database may have forgotten what it has stored.
    """
    for run in sorted({found[1] for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))}):
        try:
            _store_run(folder, run, store, oldest)
        except (OSError, StoreError) as error:
            log.error("Credits that an earlier run has left in %s are not stored yet: %s", folder, error)


def _store_run(folder: Path, run: str, store: Callable[[str, int, Changes], object], oldest: float) -> None:
    with open_private(folder / f"{run}.lock", "ab") as lock:
        if not try_lock(lock):  # it goes on
            return
        for number, path in sorted(_batches(folder, run)):
            if path.stat().st_mtime < oldest:
                log.warning("%s is removed: it is so old that its credits could be stored twice.", path)
            else:
                store(run, number, _read(path))
            path.unlink()
    _remove_run(folder, run)


def _batches(folder: Path, run: str) -> Iterator[tuple[int, Path]]:
    """The numbers of the batches that a run has left, and their files."""
    for path in folder.glob(f"{run}.*"):
        if (number := path.suffix[1:]).isdecimal():
            yield int(number), path


def _remove_run(folder: Path, run: str) -> None:
    """Remove what is left of a run that has left no batches."""
    if not any(_batches(folder, run)):
        for path in folder.glob(f"{run}.*"):
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[bytes]:
    file = open_private(path, "ab")
    try:
        if not try_lock(file):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except OSError:
        file.close()
        raise
    return file


def _write(file: IO[bytes], data: bytes) -> None:
    if file.write(data) != len(data):  # files without buffers write what there is room for
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _framed(counts: Counts) -> bytes:
    entries = _encode([(kind, whose, amount) for (kind, whose), amount in counts.items()])
    return len(entries).to_bytes(_HEAD, "big") + entries


def _read(path: Path) -> Changes:
    """The changes in a file, up to where its writer was killed."""
    changes, data = Changes(), path.read_bytes()
    while len(data) >= _HEAD and len(data) >= (end := _HEAD + int.from_bytes(data[:_HEAD], "big")):
        try:
            told = _decode(data[_HEAD:end])
            entries = {(kind, Settled(*who) if isinstance(who, list) else who): amount for kind, who, amount in told}
        except (msgspec.MsgspecError, ValueError, TypeError):  # a power cut leaves anything behind what was written
            log.warning("The end of %s cannot be read, and is left out.", path)
            break
        for (kind, whose), amount in entries.items():
            changes.add(kind, whose, amount)
        data = data[end:]
    return changes
