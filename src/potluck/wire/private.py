"""Files and folders that only their owner can read. Windows keeps its own rules, which need no help here."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import IO

from potluck.platform import is_mine, is_seen_by_others, replace

log = logging.getLogger(__name__)


def make_folder(path: Path) -> None:
    """Make the folder and those above it where they do not exist, so that only their owner can look into them."""
    for folder in (*reversed(path.parents), path):  # mkdir's `parents` would let everybody look into the upper ones
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Replace the file in one go, readable only by its owner."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # its mode is 0600
        fresh = Path(file.name)
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # after a power cut there is the old file or the new one, but no empty one
        replace(fresh, path)
    except OSError:
        fresh.unlink()
        raise


def open_private(path: Path, mode: str) -> IO[bytes]:
    """Open a file, which is made if it does not exist, so that only its owner can read it. It has no buffer: others
    read what is written at once, and a process that is killed loses nothing of it. mode: as `open` has it, in bytes.
    """
    return open(path, mode, buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o600))


def tighten(path: Path) -> None:
    """Take the file or folder from everyone but its owner, if it exists and this user is its owner."""
    if path.is_symlink() or not path.exists() or not is_seen_by_others(path) or not is_mine(path):
        return
    try:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXU)
    except OSError as error:  # of a disk that can only be read
        log.warning("Others can read %s, and its mode cannot be changed: %s.", path, error.strerror or error)
