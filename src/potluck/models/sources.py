"""Finds models on this machine or on the hub, and keeps their manifests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from platformdirs import user_cache_path

from potluck.errors import ModelError
from potluck.models import gguf, huggingface
from potluck.models.files import Files, LocalSource, Progress, is_plain, read_whole, sha256_each, shown, unwritable
from potluck.models.gguf_index import GgufIndex, read_head, read_index
from potluck.models.http_source import CoordinatorSource, HubSource
from potluck.models.manifest import Manifest, Tensor
from potluck.models.names import chosen_file, hub_name
from potluck.models.shards import parts_of
from potluck.models.vetting import decode
from potluck.platform import replace

__all__ = ["CoordinatorSource", "HubSource", "LocalSource", "cache_folder", "local_source", "open_hub", "open_model"]

_SMALL_FILES = (".json", ".jinja", "tokenizer.model", "merges.txt")
_TEMPLATES = "additional_chat_templates/"
"""The only folder of a repository from which small files are taken."""
_MODEL_FILES = (".json", ".safetensors", ".bin")
_READING = 4
"""Is raised when manifests of the same files come out differently, so that none of an older Potluck is used."""
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
    path = first_part(path)
    saved = _saved_manifest(_state(path))
    if saved.exists():
        return decode(saved.read_bytes())
    return _finished(_read_local(path), local_source(path), saved, progress)


def _read_local(path: Path) -> Manifest:
    if not any(part.exists() for part in _parts(path)):
        raise ModelError(f"{path} does not exist.")
    files = local_source(path)
    if path.is_dir():
        return huggingface.read_manifest(files, _folder_name(path.resolve()))
    return gguf.read_manifest(files, path.name, lambda file: read_index(files.folder / file))


def _folder_name(folder: Path) -> str:
    """The model's name by its folder. The hub's cache calls a snapshot by its commit, in a folder for the model."""
    kept = folder.parent.parent.name
    if folder.parent.name == "snapshots" and kept.startswith("models--"):
        return kept.rpartition("--")[2]
    return folder.name


def first_part(path: Path) -> Path:
    """The file that holds the metadata, for a GGUF model that comes in parts; the path itself for every other model."""
    return _parts(path)[0]


@dataclass(frozen=True)
class Found:
    """A model to serve. path: its file or directory here, the first of several files; for a model on the hub,
    everything but its weights, once the manifest has been read.

    hub: where it is on the hub. file: the GGUF file there, the first of several; empty for a Hugging Face model.
    """

    path: Path
    hub: HubSource | None = None
    file: str = ""

    def manifest(self, progress: Progress = lambda _: None) -> Manifest:
        """The manifest. Raises ModelError when this is not a model."""
        if self.hub is None:
            return open_model(self.path, progress)
        if self.file:
            return open_hub_gguf(self.hub, self.file, self.path, progress)
        return open_hub(self.hub, progress)

    def outline(self) -> Manifest:
        """The manifest without the SHA-256 of anything, for which no weights are read. Raises ModelError likewise."""
        if self.hub is None:
            return _vetted(_read_local(self.path))
        if self.file:
            hub = self.hub
            return _vetted(gguf.read_manifest(hub, self.file, lambda part: read_head(hub, part).contents))
        return _vetted(_read_hub(self.hub))

    @property
    def nbytes(self) -> int:
        """The bytes of its weights, wherever they are; 0 if that is not known yet."""
        if self.hub is None:
            return weights_size(self.path)
        return sum(self.hub.size(part) or 0 for part in parts_of(self.file)) if self.file else 0


def find_model(text: str, revision: str | None = None) -> Found:
    """Find a model by its path, or else by its name on the hub, such as `EleutherAI/gpt-neox-20b` or
    `hf:OWNER/REPO:Q4_K_M`.

    revision: a branch, a tag or a commit on the hub. Raises ModelError when there is no such model, or several.
    """
    path = first_part(Path(text))
    name = None if any(part.exists() for part in _parts(path)) else hub_name(text)
    if name is None:
        if revision is not None:
            raise ModelError(f"{text} is a path, and only models on the hub have revisions: leave --revision out.")
        return Found(path)
    try:
        hub = HubSource(name.repository, revision or name.revision or "main")
    except ModelError as error:
        if text.partition(":")[0] != name.repository:
            raise
        raise ModelError(f"{text} is not a path here, and {str(error)[:1].lower()}{str(error)[1:]}") from error
    try:
        file = chosen_file(name, hub.sizes)
        return _found_folder(hub) if file is None else _found_gguf(hub, file)
    except ModelError:
        hub.close()
        raise


def _hub_folder(hub: HubSource) -> Path:
    return cache_folder() / "hub" / hub.repository / hub.revision


def _found_folder(hub: HubSource) -> Found:
    """A Hugging Face model, all of whose small files are here."""
    folder = _hub_folder(hub)
    for file in hub.sizes:
        is_near = is_plain(file.removeprefix(_TEMPLATES))
        if file.endswith(_SMALL_FILES) and is_near and not (folder / file).exists():
            _save(folder / file, read_whole(hub, file))
    return Found(folder, hub)


def _found_gguf(hub: HubSource, file: str) -> Found:
    folder, _, name = file.rpartition("/")
    return Found(_hub_folder(hub) / folder / f"{name.removesuffix('.gguf')}.vocabulary.gguf", hub.within(folder), name)


def weights_size(model: Path) -> int:
    """The bytes of a model's weights on this machine; 0 if they are elsewhere."""
    parts = _parts(model)
    files = [file for file in (model.iterdir() if model.is_dir() else parts) if file.is_file()]
    weights = {file.suffix for file in files} & {".gguf", ".safetensors"} or {".bin"}
    return sum(file.stat().st_size for file in files if file.suffix in weights)


def _parts(path: Path) -> list[Path]:
    """The files of a GGUF model; a directory alone."""
    try:
        return [path] if path.is_dir() else [path.with_name(name) for name in parts_of(path.name)]
    except OSError as error:  # such as a name that is too long
        raise ModelError(f"{shown(path)} cannot be opened: {error.strerror}.") from error


def local_source(path: Path) -> LocalSource:
    """The files of the model that `open_model` opens at this path."""
    return LocalSource(path if path.is_dir() else path.parent)


def open_hub(source: HubSource, progress: Progress = lambda _: None) -> Manifest:
    """The manifest of a Hugging Face model on the hub. Its weights pass through once to be hashed; none are kept."""
    saved = _saved_manifest(f"{source.location}|{source.revision}")
    if saved.exists():
        return decode(saved.read_bytes())
    return _finished(_read_hub(source), source, saved, progress)


def _read_hub(source: HubSource) -> Manifest:
    return huggingface.read_manifest(source, source.repository.rpartition("/")[2])


def open_hub_gguf(hub: HubSource, file: str, vocabulary: Path, progress: Progress = lambda _: None) -> Manifest:
    """The manifest of a GGUF model on the hub, whose weights pass through once likewise.

    vocabulary: where a GGUF file with its metadata is kept, for llama.cpp's tokenizer.
    """
    saved = _saved_manifest(f"{hub.location}/{file}|{hub.revision}")
    if saved.exists() and vocabulary.exists():
        return decode(saved.read_bytes())

    def read(part: str) -> GgufIndex:
        head = read_head(hub, part)
        if part == file:
            _save(vocabulary, head.vocabulary)
        return head.contents

    manifest = gguf.read_manifest(hub, file, read)
    return decode(saved.read_bytes()) if saved.exists() else _finished(manifest, hub, saved, progress)


def _vetted(manifest: Manifest) -> Manifest:
    """The manifest as nodes will decode it. Raises ModelError if they would refuse it."""
    try:
        encoded = _with_digests(manifest, lambda _: _NO_DIGEST).encode()
    except (RecursionError, ValueError) as error:  # ValueError: of text that is no Unicode
        raise ModelError(f"The metadata of {shown(manifest.name)} cannot be sent to nodes: {error}.") from error
    return decode(encoded)


def _finished(manifest: Manifest, files: Files, saved: Path, progress: Progress) -> Manifest:
    """The manifest with the SHA-256 of each tensor. It is vetted before anything is hashed.

    saved: the place where it is kept.
    """
    manifest = _vetted(manifest)
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
    files = sorted(file for file in path.iterdir() if file.suffix in _MODEL_FILES) if path.is_dir() else _parts(path)
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return "|".join([str(path.resolve()), *(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)])


def _saved_manifest(state: str) -> Path:
    return cache_folder() / "manifests" / f"{hashlib.sha256(f'{_READING}|{state}'.encode()).hexdigest()[:32]}.json"


def _save(path: Path, encoded: bytes) -> None:
    """Keep a file in the cache. Raises ModelError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_bytes(encoded)
        replace(fresh, path)
    except OSError as error:
        raise unwritable(path, error) from error
