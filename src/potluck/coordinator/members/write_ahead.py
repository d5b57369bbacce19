"""A write-ahead log of credits and audits: what a coordinator that was killed had not stored yet, its next run stores.

Each run has a lock, which the system takes from it when it ends, and a file for each batch of its changes, which goes
when the batch is stored. Files are not forced to the disk, so a power cut may still take the last seconds.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from potluck.coordinator.members.ledger import Changes, Kind, Settled, Whose
from potluck.platform import replace, try_lock
from potluck.wire.private import make_folder

log = logging.getLogger(__name__)

Entry = tuple[Kind, Any, int]
"""What is added to a count of `Changes`: its name, whose it is (a `Whose`), and how much."""

_HEAD = 4
"""The bytes that tell how long the entries are that follow."""
_MOST_BYTES = 4 << 20
"""The size at which a file is written anew, with one entry for each count."""
_LOCK = ".lock"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


class WriteAhead:
    """The log of one run. folder: that of all runs on this machine. run: the run's name."""

    def __init__(self, folder: Path, run: str) -> None:
        """Raises OSError when the folder cannot be written."""
        make_folder(folder)
        self._folder = folder
        self._run = run
        self._lock = (folder / f"{run}{_LOCK}").open("wb")
        try_lock(self._lock)
        self._number = 1
        self._file: IO[bytes] | None = None
        self._limit = _MOST_BYTES
        self._counts: Counter[tuple[Kind, Whose]] = Counter()
        """All that is in the file."""
        self._fresh: Counter[tuple[Kind, Whose]] = Counter()
        """What will be there when the loop has done what it is about."""
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
        self._number, self._limit = number, _MOST_BYTES
        self._counts.clear()

    def drop(self, number: int) -> None:
        """Forget the batch with this number, because it is stored."""
        try:
            self._path(number).unlink(missing_ok=True)
        except OSError as error:  # it is not stored twice: the database knows its number
            self._failed(error)

    def close(self) -> None:
        """End the run. What is not stored stays for the next one."""
        self._flush()
        self._close_file()
        self._lock.close()
        _remove_run(self._folder, self._run)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._run}.{number}"

    def _flush(self) -> None:
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, Counter()
        self._counts.update(fresh)
        try:
            if self._file is None:
                self._file = self._path(self._number).open("wb", buffering=0)  # a killed process loses its buffers
                fresh = self._counts
            framed = _framed(fresh)
            if self._file.write(framed) != len(framed):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._file.tell() > self._limit:
                self._write_anew()
            self._is_failing = False
        except OSError as error:
            self._failed(error)
            self._close_file()  # the next flush writes all of it

    def _write_anew(self) -> None:
        """Replace the file by a shorter one that says the same."""
        self._close_file()
        path = self._path(self._number)
        shorter = path.with_suffix(".new")
        shorter.write_bytes(_framed(self._counts))
        replace(shorter, path)
        self._file = path.open("ab", buffering=0)
        self._limit = max(_MOST_BYTES, 2 * self._file.tell())

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _failed(self, error: OSError) -> None:
        if not self._is_failing:
            log.error("A coordinator that is killed now loses its last credits: %s", error.strerror or error)
        self._is_failing = True


def store_left(folder: Path, store: Callable[[str, int, Changes], bool], oldest: float) -> None:
    """Store what runs have left that were killed. store: stores the changes of a run's batch with a number, once.

    Batches stay where it returns False, as for another database, until they have not been written since `oldest`, in
    Unix time. Raises what `store` raises, and OSError.
    """
    for lock in sorted(folder.glob(f"*{_LOCK}")):
        with lock.open("r+b") as file:
            if not try_lock(file):  # it runs
                continue
            for number, path in sorted(_batches(folder, lock.stem)):
                try:
                    changes = _read(path.read_bytes())
                except msgspec.MsgspecError as error:
                    log.error("Credits in %s cannot be read, and are not stored: %s", path, error)
                    continue
                if store(lock.stem, number, changes) or path.stat().st_mtime < oldest:
                    path.unlink()
        _remove_run(folder, lock.stem)


def _batches(folder: Path, run: str) -> Iterator[tuple[int, Path]]:
    """The numbers of the batches that a run has left, and their files."""
    for path in folder.glob(f"{run}.*"):
        if (number := path.suffix[1:]).isdecimal():
            yield int(number), path


def _remove_run(folder: Path, run: str) -> None:
    """Remove the lock of a run that has left nothing."""
    if not any(_batches(folder, run)):
        for path in folder.glob(f"{run}.*"):
            path.unlink(missing_ok=True)


def _framed(counts: Counter[tuple[Kind, Whose]]) -> bytes:
    entries = _encode([(kind, whose, amount) for (kind, whose), amount in counts.items()])
    return len(entries).to_bytes(_HEAD, "big") + entries


def _read(data: bytes) -> Changes:
    """The changes in a file, up to where its writer was killed."""
    changes = Changes()
    while len(data) >= _HEAD:
        end = _HEAD + int.from_bytes(data[:_HEAD], "big")
        if len(data) < end:
            break
        for kind, whose, amount in _decode(data[_HEAD:end]):
            changes.add(kind, Settled(*whose) if isinstance(whose, list) else whose, amount)
        data = data[end:]
    return changes
