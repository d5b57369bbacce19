"""The coordinators that the nodes of this machine know, each by the key that it had when it was first met."""

from __future__ import annotations

from pathlib import Path

import msgspec
from filelock import FileLock

from potluck.errors import IdentityError
from potluck.wire.identity import data_folder, fingerprint, write_private

_decoder = msgspec.json.Decoder(dict[str, str])


def pins_path() -> Path:
    """The file that all nodes of this machine share."""
    return data_folder() / "known_coordinators.json"


class Pins:
    """A file of origins and public keys (hex). Several nodes may use it at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recognise(self, origin: str, key: bytes) -> bool:
        """Whether the coordinator there was known; one that was not is known from now on.

        Raises IdentityError when it had another key until now, or the file cannot be used.
        """
        if (known := self._keys().get(origin)) is None:
            known = self._add(origin, key)
            if known is None:
                return False
        if known != key.hex():
            raise IdentityError(
                f"The coordinator at {origin} had the key {fingerprint(bytes.fromhex(known))} and now shows "
                f"{fingerprint(key)}: somebody else may be in its place. "
                f"If the change is meant, run 'potluck forget {origin}' and join again."
            )
        return True

    def forget(self, origin: str) -> bool:
        """Take the next key of the coordinator there for its own. Whether it was known."""
        if origin not in self._keys():
            return False
        with FileLock(f"{self._path}.lock"):
            self._write({other: key for other, key in self._keys().items() if other != origin})
        return True

    def _add(self, origin: str, key: bytes) -> str | None:
        """None, or the key under which another node has added it meanwhile."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock"):
                keys = self._keys()
                if origin not in keys:
                    self._write({**keys, origin: key.hex()})
                return keys.get(origin)
        except OSError as error:
            raise IdentityError(f"{self._path} cannot be written: {error.strerror or error}.") from error

    def _keys(self) -> dict[str, str]:
        try:
            keys = _decoder.decode(self._path.read_bytes()) if self._path.exists() else {}
            for key in keys.values():
                bytes.fromhex(key)
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            raise IdentityError(f"{self._path} cannot be read: {error}.") from error
        return keys

    def _write(self, keys: dict[str, str]) -> None:
        write_private(self._path, msgspec.json.format(msgspec.json.encode(keys)))
