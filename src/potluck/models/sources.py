"""Finds models on this machine or on the hub, and keeps their manifests."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from platformdirs import user_cache_path

from potluck.errors import ModelError
from potluck.models import gguf, huggingface
from potluck.models.files import Files, LocalSource, Progress, read_whole, sha256_each, shown
from potluck.models.http_source import CoordinatorSource, HubSource
from potluck.models.manifest import Manifest, Tensor
from potluck.models.vetting import decode

__all__ = ["CoordinatorSource", "HubSource", "LocalSource", "cache_folder", "local_source", "open_hub", "open_model"]

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL_FILES = (".json", ".jinja")
_MODEL_FILES = (".json", ".safetensors", ".bin")
_NO_DIGEST = "0" * 64
"""Stands for the SHA-256 of bytes that nobody has read, so that a manifest already has its final length."""


def cache_folder() -> Path:
    """The folder of manifests and span files: `POTLUCK_CACHE`, or the user's cache folder."""
    override = os.environ.get("POTLUCK_CACHE")
    return Path(override) if override else user_cache_path("potluck")


def open_model(path: Path, progress: Progress = lambda _: None) -> Manifest:
    """The manifest of a model on this machine: a GGUF file, or a Hugging Face directory.

    The files are hashed once for each state that they are in. Raises ModelError, with advice, when there is no model.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist.")
    saved = _saved_manifest(_state(path))
    if saved.exists():
        return decode(saved.read_bytes())
    if path.is_dir():
        manifest = huggingface.read_manifest(LocalSource(path), path.resolve().name)
    else:
        manifest = gguf.read_manifest(path)
    return _finished(manifest, local_source(path), saved, progress)


@dataclass(frozen=True)
class Found:
    """A model to serve. path: its file or directory here; for a model on the hub, everything but its weights."""

    path: Path
    hub: HubSource | None = None

    def manifest(self, progress: Progress = lambda _: None) -> Manifest:
        """The manifest. Raises ModelError when this is not a model."""
        return open_model(self.path, progress) if self.hub is None else open_hub(self.hub, progress)


def find_model(text: str) -> Found:
    """Find a model by its path, or else as a repository of the hub such as `EleutherAI/gpt-neox-20b`.

    Raises ModelError when the hub does not have it either.
    """
    path = Path(text)
    if path.exists() or not _REPOSITORY.fullmatch(text):
        return Found(path)
    try:
        hub = HubSource(text)
    except ModelError as error:
        raise ModelError(f"{text} is not a path here, and {str(error)[:1].lower()}{str(error)[1:]}") from error
    folder = cache_folder() / "hub" / text / hub.revision
    for file in hub.names():
        if file.endswith(_SMALL_FILES) and "/" not in file and not (folder / file).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(read_whole(hub, file))
    return Found(folder, hub)


def weights_size(model: Path) -> int:
    """The bytes of a model's weights on this machine; 0 if they are elsewhere."""
    files = [file for file in (model.iterdir() if model.is_dir() else [model]) if file.is_file()]
    weights = {file.suffix for file in files} & {".gguf", ".safetensors"} or {".bin"}
    return sum(file.stat().st_size for file in files if file.suffix in weights)


def local_source(path: Path) -> LocalSource:
    """The files of the model that `open_model` opens at this path."""
    return LocalSource(path if path.is_dir() else path.parent)


def open_hub(source: HubSource, progress: Progress = lambda _: None) -> Manifest:
    """The manifest of a Hugging Face model on the hub. Its weights pass through once to be hashed; none are kept."""
    saved = _saved_manifest(f"{source.location}|{source.revision}")
    if saved.exists():
        return decode(saved.read_bytes())
    return _finished(huggingface.read_manifest(source, source.repository.rpartition("/")[2]), source, saved, progress)


def _finished(manifest: Manifest, files: Files, saved: Path, progress: Progress) -> Manifest:
    """The manifest with the SHA-256 of each tensor. It is vetted as nodes will decode it, before anything is hashed.

    saved: the place where it is kept.
    """
    try:
        encoded = _with_digests(manifest, lambda _: _NO_DIGEST).encode()
    except (RecursionError, ValueError) as error:  # ValueError: of text that is no Unicode
        raise ModelError(f"The metadata of {shown(manifest.name)} cannot be sent to nodes: {error}.") from error
    manifest = decode(encoded)
    ranges: dict[str, set[tuple[int, int]]] = {}  # some tensors share their bytes
    for tensor in manifest.tensors:
        ranges.setdefault(tensor.file, set()).add((tensor.offset, tensor.nbytes))
    digests = {file: sha256_each(files, file, sorted(each), progress) for file, each in sorted(ranges.items())}
    manifest = _with_digests(manifest, lambda tensor: digests[tensor.file][tensor.offset, tensor.nbytes])
    _save(saved, manifest.encode())
    return manifest


def _with_digests(manifest: Manifest, digest: Callable[[Tensor], str]) -> Manifest:
    tensors = tuple(msgspec.structs.replace(tensor, sha256=digest(tensor)) for tensor in manifest.tensors)
    return msgspec.structs.replace(manifest, tensors=tensors)


def _state(path: Path) -> str:
    """A line that differs whenever one of the model's files has changed."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in _MODEL_FILES)
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return "|".join([str(path.resolve()), *(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)])


def _saved_manifest(state: str) -> Path:
    return cache_folder() / "manifests" / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.json"


def _save(path: Path, encoded: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(encoded)
    fresh.replace(path)
