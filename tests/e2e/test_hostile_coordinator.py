"""A hostile coordinator against a node: the node leaves with a sentence, within its memory, and leaves no bytes behind.

Each attack comes from a real server, and meets a real `potluck join` process.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.hostile import Hostile, Reply
from kit.processes import ONE_THREAD, PYTHON, finish
from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="The peak of the memory is read from /proc.")

MEMORY = 1500
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


def changed(manifest: Manifest, change: Callable[[Any], object]) -> bytes:
    content = json.loads(manifest.encode())
    change(content)
    return json.dumps(content).encode()


def attack(manifest: Manifest, reply: Reply, folder: Path) -> Left:
    """What becomes of a node whose coordinator answers all requests in this way."""
    with Hostile(manifest.digest, lambda *_: reply).running() as url:
        return Left(url, folder)


def served(manifest: Manifest, file: Reply) -> Callable[[str, str], Reply]:
    """The answers of a coordinator whose manifest is as it should be."""
    return lambda path, _: Reply(manifest.encode()) if path == "/manifest" else file


BOMB = b"[" + b"[]," * (10 << 20) + b"[]]"
"""30 MiB of JSON, which take twenty times as much once they are decoded."""

ATTACKS: dict[str, tuple[Callable[[Manifest], Reply], str]] = {
    "endless": (lambda _: Reply(b" " * (1 << 20), endless=True), "sends more bytes of the manifest than there can be"),
    "gzipped": (
        lambda _: Reply(gzip.compress(bytes(1 << 28), 1), headers={"Content-Encoding": "gzip"}),
        "compresses the manifest, although it was asked not to",
    ),
    "amplified": (lambda _: Reply(b'{"metadata":' + BOMB + b"}"), "has metadata of more than 1024 KiB"),
    "amplified tensors": (lambda _: Reply(b'{"metadata":{},"tensors":' + BOMB + b"}"), "not a Potluck manifest"),
    "nested": (lambda _: Reply(b'{"metadata":' + b"[" * (1 << 20)), "not a Potluck manifest"),
    "a tensor without end": (
        lambda manifest: Reply(changed(manifest, lambda content: content["tensors"][0].update(nbytes=1 << 40))),
        "because it says 1099511627776 bytes and its shape says",
    ),
    "a huge alignment": (
        lambda manifest: Reply(
            changed(manifest, lambda content: content["metadata"].update({"general.alignment": [["UINT32"], 1 << 31]}))
        ),
        "cannot have the metadata general.alignment",
    ),
    "huge heads": (
        lambda manifest: Reply(
            changed(
                manifest,
                lambda content: content["metadata"].update({"llama.attention.key_length": [["UINT32"], 1 << 20]}),
            )
        ),
        "llama.attention.key_length, which is no number from 1 to 8192",
    ),
    "redirect": (
        lambda _: Reply(status=307, headers={"Location": "https://169.254.169.254/latest/meta-data"}),
        "may lead only to public servers that speak https",
    ),
    "redirect in a circle": (
        lambda _: Reply(status=307, headers={"Location": "/manifest"}),
        "redirects more than 5 times",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_manifest_is_refused(manifest, tmp_path, name):
    reply, sentence = ATTACKS[name]
    left = attack(manifest, reply(manifest), tmp_path)
    assert sentence in left.said
    assert left.peak <= MEMORY * 1.1
    assert left.kept == 0


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (Reply(b"\0" * (1 << 20), 206, endless=True), "sends more bytes of tiny.gguf than there can be"),
        (Reply(b"\0" * (1 << 20), 206, {"Content-Encoding": "br"}), "compresses tiny.gguf"),
        (Reply(status=404), "answers 404"),
    ],
)
def test_a_hostile_file_is_refused(manifest, tmp_path, file, sentence):
    with Hostile(manifest.digest, served(manifest, file)).running() as url:
        left = Left(url, tmp_path)
    assert sentence in left.said
    assert left.peak <= MEMORY * 1.1
    assert left.kept < 1 << 16


def test_bytes_that_are_never_right_leave_nothing_behind(manifest, tmp_path):
    def answer(path: str, wanted: str) -> Reply:
        if path == "/manifest":
            return Reply(manifest.encode())
        first, last = map(int, re.findall(r"\d+", wanted))
        return Reply(bytes(last - first + 1), 206)

    with Hostile(manifest.digest, answer).running() as url:
        left = Left(url, tmp_path)
    assert "arrived twice with the wrong SHA-256" in left.said
    assert left.kept == 0
