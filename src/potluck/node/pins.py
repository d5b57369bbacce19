"""Remembers the coordinators that this machine's nodes know, each by the key that it had at the first meeting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from filelock import FileLock

from potluck.errors import IdentityError
from potluck.wire.identity import data_folder, fingerprint
from potluck.wire.private import make_folder, write_private

Keys = dict[str, str]
"""Public keys in hex, by origin."""

_decoder = msgspec.json.Decoder(Keys)


def pins_path() -> Path:
    """The file that all nodes of this machine share."""
    return data_folder() / "known_coordinators.json"


class Pins:
    """A file of origins and their keys. Several nodes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recognise(self, origin: str, key: bytes) -> bool:
        """Whether the coordinator at this origin was known. If it was not, it is known from now on.

        Raises IdentityError when it had another key until now, or when the file cannot be used.
        """
        known = self._read().get(origin) or self._change(lambda keys: {origin: key.hex(), **keys}).get(origin)
        if known is None:
            return False
        if known != key.hex():
            raise IdentityError(
                f"The coordinator at {origin} had the key {fingerprint(bytes.fromhex(known))} and now shows "
                f"{fingerprint(key)}: another machine may be impersonating it. "
                f"If the change is intended, run 'potluck forget {origin}' and join again."
            )
        return True

    def forget(self, origin: str) -> bool:
        """Accept whatever key the coordinator at this origin shows next. Returns whether it was known."""
        before = self._change(lambda keys: {other: key for other, key in keys.items() if other != origin})
        return origin in before

    def _change(self, change: Callable[[Keys], Keys]) -> Keys:
        """Change the file while no other node can, and return what was in it before."""
        try:
            make_folder(self._path.parent)
            with FileLock(f"{self._path}.lock", mode=0o600):
                before = self._read()
                write_private(self._path, msgspec.json.format(msgspec.json.encode(change(before))))
        except OSError as error:
            raise IdentityError(f"{self._path} cannot be written: {error.strerror or error}.") from error
        return before

    def _read(self) -> Keys:
        try:
            keys = _decoder.decode(self._path.read_bytes()) if self._path.exists() else {}
            for key in keys.values():
                bytes.fromhex(key)
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            raise IdentityError(f"{self._path} cannot be read: {error}.") from error
        return keys
