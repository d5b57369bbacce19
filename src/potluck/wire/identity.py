"""The identity of a node or a coordinator: an Ed25519 key in a file that only its owner can read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from filelock import FileLock
from platformdirs import user_data_path

from potluck.errors import IdentityError
from potluck.platform import is_seen_by_others
from potluck.wire.private import make_folder, tighten, write_private


def data_folder() -> Path:
    """The folder of keys, known coordinators and the database: `POTLUCK_DATA`, or the user's data folder."""
    override = os.environ.get("POTLUCK_DATA")
    return Path(override) if override else user_data_path("potluck")


def coordinator_key() -> Path:
    """The file with the key of this machine's coordinator."""
    return data_folder() / "coordinator.key"


def node_key(name: str) -> Path:
    """The file with the key of this machine's node of that name, whatever characters the name contains."""
    return data_folder() / "nodes" / f"{quote(name, safe='')}.key"


def node_invite(name: str) -> Path:
    """The file with the invite that this machine's node of that name has yet to use."""
    return node_key(name).with_suffix(".invite")


def admin_key() -> Path:
    """The file with the API key of the owner of this machine's coordinator."""
    return data_folder() / "admin.key"


def fleet_key() -> Path:
    """The file with the key of the fleet to which this machine's coordinator belongs."""
    return data_folder() / "fleet.key"


def credits_folder() -> Path:
    """The folder in which a coordinator keeps credits until they are stored."""
    return data_folder() / "credits"


def first_invite() -> Path:
    """The file with the invite that this machine's coordinator shows when it starts."""
    return data_folder() / "first.invite"


def tighten_data() -> None:
    """Take from everybody else what older versions let them see in the data folder.

    A folder that `POTLUCK_DATA` names keeps its mode, because it may be for more than Potluck. Nor is a key that others
    could read hidden from them: see `Identity.load`.
    """
    folder = data_folder()
    if folder == user_data_path("potluck"):
        tighten(folder)
    for path in (folder / "nodes", admin_key(), first_invite()):
        tighten(path)


class Identity:
    """A key pair. `public`: the 32 bytes by which others recognise its holder."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @classmethod
    def fresh(cls) -> Identity:
        """A new identity, which is not stored anywhere."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """The identity in this file, which is made if it does not exist.

        Raises IdentityError when others can read the file, when it does not contain an Ed25519 key, or when it cannot
        be made.
        """
        try:
            if not path.exists():
                make_folder(path.parent)
                _make(path)
            if is_seen_by_others(path):
                raise IdentityError(f"Others can read the key in {path}: replace it, or run chmod 600 on it.")
            return cls(_private_key(path))
        except OSError as error:
            message = (
                f"The key cannot be kept in {path}: {error.strerror or error}. POTLUCK_DATA may name another folder."
            )
            raise IdentityError(message) from error

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of this key signed the message; also False if the key or the signature is malformed."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """A key in the form in which people compare it: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def _make(path: Path) -> None:
    with FileLock(f"{path}.lock", mode=0o600):  # nodes of one name may start together
        if not path.exists():
            key = Ed25519PrivateKey.generate()
            write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it is encrypted
        raise IdentityError(
            f"{path} does not contain an Ed25519 key. If you delete the file, Potluck makes a new key."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(
            f"{path} contains a key of another kind than Ed25519. If you delete the file, Potluck makes a new key."
        )
    return key
