"""A hostile coordinator against a node: the node leaves with a sentence, within its memory, and leaves no bytes behind.

Each attack comes from a real server, and meets a real `potluck join` process.
"""

from __future__ import annotations

import gzip
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kit.hostile import Hostile, Reply
from kit.processes import ONE_THREAD, PYTHON, finish
from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="The peak of the memory is read from /proc.")

MEMORY = 600
"""MiB that the node's owner offers."""

MEASURED = """
import atexit, sys
from pathlib import Path
from potluck.cli import main
atexit.register(lambda: print(Path("/proc/self/status").read_text(), flush=True))
main()
"""
"""`potluck`, which tells the peak of its memory in the end."""


class Left:
    """A node that has left. said: why; peak: the most MiB that it took; kept: the bytes in its cache."""

    def __init__(self, url: str, folder: Path, memory: int = MEMORY) -> None:
        env = {**os.environ, "POTLUCK_CACHE": str(folder / "cache"), "POTLUCK_DATA": str(folder / "data")}
        join = ["join", url, "0-1", "--name", "victim", "--memory", f"{memory}M", *ONE_THREAD]
        done = finish(*PYTHON, "-c", MEASURED, *join, env=env)
        assert done.returncode == 1, done.stdout
        [self.said] = done.stderr.strip().splitlines()
        assert re.fullmatch(r"potluck: \S.*[.]", self.said), self.said
        self.peak = int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) >> 10
        self.kept = sum(file.stat().st_size for file in (folder / "cache").rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", "llama", layers=2, dtype=EXACT)


@pytest.fixture(scope="module")
def manifest(model: Path) -> Manifest:
    return open_model(model)


def served(manifest: bytes, file: Reply | None = None) -> Callable[[str, str], Reply]:
    """The answers of a coordinator with this manifest. file: the one to requests for a part of a file; else zeros."""

    def answer(path: str, wanted: str) -> Reply:
        if path == "/manifest":
            return Reply(manifest)
        first, last = map(int, re.findall(r"\d+", wanted))
        return file or Reply(bytes(last - first + 1), 206)

    return answer


def lying(manifest: Manifest, **changes: Any) -> bytes:
    return msgspec.structs.replace(manifest, **changes).encode()


def with_metadata(manifest: Manifest, key: str, *entry: Any) -> bytes:
    return lying(manifest, metadata=manifest.metadata | {key: list(entry)})


def with_tensor(manifest: Manifest, **changes: Any) -> bytes:
    """The changes are those of a matrix in the first layer."""
    first, matrix, *others = manifest.tensors
    return lying(manifest, tensors=(first, msgspec.structs.replace(matrix, **changes), *others))


def only(reply: Reply) -> Callable[[Manifest], Callable[[str, str], Reply]]:
    """The answers of a coordinator that has nothing else to say."""
    return lambda _: lambda *_: reply


def with_manifest(make: Callable[[Manifest], bytes]) -> Callable[[Manifest], Callable[[str, str], Reply]]:
    return lambda manifest: served(make(manifest))


def with_file(file: Reply | None) -> Callable[[Manifest], Callable[[str, str], Reply]]:
    return lambda manifest: served(manifest.encode(), file)


MANY = "[" + "[]," * (10 << 20) + "[]]"
"""30 MiB of JSON, which take twenty times as much once they are decoded."""
NUMBERS = "[" + "999," * (7 << 20) + "999]"
"""28 MiB of JSON, which take ten times as much as integers."""

ATTACKS: dict[str, tuple[Callable[[Manifest], Callable[[str, str], Reply]], str]] = {
    "an endless manifest": (only(Reply(b" " * (1 << 20), endless=True)), "sends more bytes of the manifest than there"),
    "a compressed manifest": (
        only(Reply(gzip.compress(bytes(1 << 28), 1), headers={"Content-Encoding": "gzip"})),
        "compresses the manifest, although it was asked not to",
    ),
    "metadata that grow": (
        with_manifest(lambda true: lying(true, metadata={"x": msgspec.Raw(MANY.encode())})),
        "has metadata of more than 1024 KiB",
    ),
    "metadata twice": (
        with_manifest(
            lambda true: true.encode().replace(b'"metadata":', b'"metadata":' + MANY.encode() + b',"metadata":')
        ),
        "arrived twice with the wrong SHA-256",
    ),
    "shapes that grow": (
        with_manifest(lambda true: true.encode().replace(b'"shape":[', b'"shape":' + NUMBERS[:-1].encode() + b",", 1)),
        "dimensions",
    ),
    "metadata without a bottom": (only(Reply(b'{"metadata":' + b"[" * (1 << 20))), "not a Potluck manifest"),
    "a tensor of 2^40 bytes": (
        with_manifest(lambda true: with_tensor(true, nbytes=1 << 40)),
        "because it says 1099511627776 bytes and its shape says",
    ),
    "a matrix of 2^40 bytes": (
        with_manifest(lambda true: with_tensor(true, nbytes=1 << 40, shape=(64, 1 << 32), dtype="F32", offset=1 << 40)),
        "MiB of memory; 600 are offered",
    ),
    "an alignment of 2^31": (
        with_manifest(lambda true: with_metadata(true, "general.alignment", ["UINT32"], 1 << 31)),
        "has an impossible value for general.alignment",
    ),
    "heads of 2^20 numbers": (
        with_manifest(lambda true: with_metadata(true, "llama.attention.key_length", ["UINT32"], 1 << 20)),
        "llama.attention.key_length, which is not a number from 1 to 8192",
    ),
    "a redirect into the owner's network": (
        only(Reply(status=307, headers={"Location": "https://169.254.169.254/latest/meta-data"})),
        "may redirect only to public https servers",
    ),
    "an endless file": (
        with_file(Reply(bytes(1 << 20), 206, endless=True)),
        "sends more bytes of tiny.gguf than there",
    ),
    "bytes that are never right": (with_file(None), "arrived twice with the wrong SHA-256"),
}


def promised(answer: Callable[[str, str], Reply], manifest: Manifest) -> str:
    """The digest of the manifest that is given, if it has one: a liar may promise what it gives."""
    try:
        return msgspec.json.decode(answer("/manifest", "").body, type=Manifest).digest
    except (msgspec.DecodeError, RecursionError):
        return manifest.digest


@pytest.mark.parametrize("name", ATTACKS)
def test_the_node_leaves_with_a_sentence(manifest, tmp_path, name):
    attack, sentence = ATTACKS[name]
    answer = attack(manifest)
    with Hostile(promised(answer, manifest), answer).running() as url:
        left = Left(url, tmp_path)
    assert sentence in left.said
    assert left.peak <= MEMORY * 1.1
    assert left.kept < 1 << 16  # the beginning of a span file, which a better coordinator could complete
    assert left.kept == 0 or name != "bytes that are never right"
