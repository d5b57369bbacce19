import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from potluck.errors import IdentityError
from potluck.wire.identity import Identity, coordinator_key, fingerprint, node_key, verify

posix = pytest.mark.skipif(os.name != "posix", reason="Modes are of POSIX.")
ONE, OTHER = Identity.fresh(), Identity.fresh()


@posix
def test_the_first_load_makes_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "my.key"
    Identity.load(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_later_loads_give_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    one, again = Identity.load(path), Identity.load(path)
    assert one.public == again.public
    assert len(one.public) == 32
    assert verify(one.public, again.sign(b"x"), b"x")
    assert Identity.load(tmp_path / "other.key").public != one.public


def test_nodes_that_start_together_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda _: Identity.load(tmp_path / "my.key").public, range(8)))
    assert len(keys) == 1


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my.key"
    Identity.load(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=r"Others can read the key in .*my\.key.*chmod 600"):
        Identity.load(path)


def pem(key: object, encryption: object) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Bring a salad.",
        bytes(32),
        pem(generate_private_key(SECP256R1()), NoEncryption()),
        pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret")),
    ],
    ids=["empty", "text", "raw", "another kind", "encrypted"],
)
def test_a_file_without_a_key_of_ours_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "my.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match=r"my\.key (does not contain|contains) .*Ed25519"):
        Identity.load(path)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="The key cannot be kept in"):
        Identity.load(tmp_path / "file" / "my.key")
    with pytest.raises(IdentityError, match="The key cannot be kept in"):
        Identity.load(tmp_path / f"{'x' * 300}.key")


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_a_signature_is_of_one_key_and_one_message(message: bytes, other: bytes) -> None:
    signature = ONE.sign(message)
    assert verify(ONE.public, signature, message)
    assert not verify(OTHER.public, signature, message)
    assert verify(ONE.public, signature, other) is (message == other)
    assert not verify(ONE.public, other, message)
    assert not verify(other[:40], signature, message)


def test_a_fingerprint_is_the_beginning_of_the_hash() -> None:
    assert fingerprint(bytes(32)) == "66687aadf862bd77"  # sha256sum of 32 zero bytes


def test_every_name_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path))
    assert coordinator_key() == tmp_path / "coordinator.key"
    names = ["anna", "Anna", "an/na", "an na", "..", "../../x", "", "ä", "a:b", "a%3Ab"]
    paths = [node_key(name) for name in names]
    assert len(set(paths)) == len(names)
    assert {path.parent for path in paths} == {tmp_path / "nodes"}
