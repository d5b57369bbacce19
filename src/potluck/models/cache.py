"""What this machine keeps of models: their span files, when each was last used, and the most that all may take."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout
from msgspec import Struct

from potluck.errors import ModelError, SpanError
from potluck.models.files import unwritable
from potluck.models.holds import is_held
from potluck.models.manifest import Manifest
from potluck.models.spanfile import finished_path, lock_path, part_path
from potluck.types import Span

_ABOUT = "model.json"
_LIMIT = "limit"
_SHORTEST = 4
"""The fewest digits of a digest that stand for a model."""
_FILE = re.compile(r"(\d{1,9}-\d{1,9}(?:-\w+)?)\.gguf(\.part)?")


class About(Struct, frozen=True):
    """What people want to know of a model. nbytes: of all weights. layers: the bytes of each.

    types: the bytes of weights of each type. digest: empty if the weights have not been read.
    """

    name: str
    digest: str
    format: str
    architecture: str
    context: int
    nbytes: int
    layers: tuple[int, ...]
    types: dict[str, int]


class Held(Struct, frozen=True):
    """A span file in the cache. kind: the type to which its weights were converted; empty if they were not.

    used: when it was last used, in seconds since 1970. finished: whether all of it has been fetched.
    """

    path: Path
    span: Span
    kind: str
    nbytes: int
    used: float
    finished: bool


class Kept(Struct, frozen=True):
    """What is kept of one model. digest: the beginning of its digest. about: None if an older Potluck fetched it."""

    digest: str
    about: About | None
    spans: tuple[Held, ...]

    @property
    def name(self) -> str:
        return self.about.name if self.about is not None else self.digest[:16]


def about(manifest: Manifest, *, hashed: bool = True) -> About:
    types: Counter[str] = Counter()
    for tensor in manifest.tensors:
        types[tensor.dtype] += tensor.nbytes
    return About(
        name=manifest.name,
        digest=manifest.digest if hashed else "",
        format=manifest.format,
        architecture=manifest.architecture,
        context=manifest.context,
        nbytes=types.total(),
        layers=tuple(manifest.layer_bytes()),
        types=dict(types.most_common()),
    )


def note_model(folder: Path, manifest: Manifest) -> None:
    """Note in the folder of a model's span files what it is. A folder that may only be read is left as it is.

    Raises ModelError when the note cannot be written.
    """
    path = folder / _ABOUT
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and os.access(folder, os.W_OK):
            path.write_bytes(msgspec.json.encode(about(manifest)))
    except OSError as error:
        raise unwritable(path, error) from error


def kept_models(cache: Path) -> list[Kept]:
    """All models of which span files are in the cache, the one used last first."""
    folders = [folder for folder in (cache / "spans").glob("*") if folder.is_dir()]
    found = [Kept(folder.name, _read_about(folder), tuple(sorted(held_in(folder), key=_place))) for folder in folders]
    return sorted((each for each in found if each.spans), key=lambda each: -max(held.used for held in each.spans))


def _place(held: Held) -> tuple[Span, str]:
    return held.span, held.kind


def _read_about(folder: Path) -> About | None:
    try:
        return msgspec.json.decode((folder / _ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError):
        return None


def on_disk(stat: os.stat_result) -> int:
    """The bytes that a file takes. Zeros that were never written take none, where the system can say so."""
    blocks: int | None = getattr(stat, "st_blocks", None)
    return stat.st_size if blocks is None else min(stat.st_size, 512 * blocks)


def held_in(folder: Path) -> Iterator[Held]:
    """The span files of one model, whose folder may not exist yet."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        if match := _FILE.fullmatch(file.name):
            first, last, *kind = match[1].split("-")
            try:
                span, stat = Span(int(first), int(last)), file.stat()
            except (SpanError, FileNotFoundError):  # not ours, or finished or removed just now
                continue
            path = folder / f"{match[1]}.gguf"
            yield Held(path, span, "".join(kind), on_disk(stat), stat.st_mtime, match[2] is None)


def find_kept(cache: Path, name: str) -> Kept | None:
    """The model with this name, or whose digest begins with it. Raises ModelError when there are several."""
    models = kept_models(cache)
    found = [each for each in models if name == each.name or (len(name) >= _SHORTEST and each.digest.startswith(name))]
    if len(found) > 1:
        digests = ", ".join(each.digest[:16] for each in found)
        raise ModelError(f"{len(found)} models in the cache have the name {name}: choose by its digest from {digests}.")
    return found[0] if found else None


def remove(path: Path, is_wanted: Callable[[], bool] = lambda: False) -> bool:
    """Remove a span file with what belongs to it. Returns False if it is wanted, or if a process writes or uses it.

    Raises ModelError when the file cannot be removed.
    """
    try:
        with FileLock(lock_path(path), timeout=0):
            if is_held(path) or is_wanted():
                return False
            for each in (path, part_path(path), finished_path(path), *path.parent.glob(f"{path.stem}.*.layout")):
                each.unlink(missing_ok=True)
    except Timeout:
        return False
    except OSError as error:
        raise ModelError(f"{path} cannot be removed: {error.strerror or error}.") from error
    tidy(path.parent)
    return True


def tidy(folder: Path) -> None:
    """Remove the note about a model of which nothing is left."""
    if not any(held_in(folder)):
        (folder / _ABOUT).unlink(missing_ok=True)


def read_limit(cache: Path) -> int | None:
    """The most bytes that all span files may take; None means any number."""
    try:
        return int((cache / _LIMIT).read_text())
    except (OSError, ValueError):
        return None


def write_limit(cache: Path, limit: int | None) -> None:
    """Keep a limit for all nodes that use this cache. Raises ModelError when that cannot be written."""
    try:
        if limit is None:
            (cache / _LIMIT).unlink(missing_ok=True)
        else:
            cache.mkdir(parents=True, exist_ok=True)
            (cache / _LIMIT).write_text(f"{limit}\n")
    except OSError as error:
        raise unwritable(cache / _LIMIT, error) from error


def make_room(cache: Path, wanted: int, keep: Path | None = None) -> list[Held]:
    """Remove the span files that were not used for longest until `wanted` more bytes are within the limit, if any.

    keep: a file for which the room is; what is there of it is counted once. Returns what was removed.
    Raises ModelError, and removes nothing, when the rest is in use.
    """
    limit = read_limit(cache)
    if limit is None:
        return []
    others = [held for each in kept_models(cache) for held in each.spans if held.path != keep]
    excess = sum(held.nbytes for held in others) + wanted - limit
    idle = [held for held in others if not is_held(held.path)]
    too_little = ModelError(
        f"These layers need {wanted / (1 << 20):,.1f} MiB beside what is in use, but the cache may hold only "
        f"{limit / (1 << 20):,.1f} MiB: serve fewer layers, or allow more with --cache-limit."
    )
    if wanted and excess > sum(held.nbytes for held in idle):
        raise too_little
    removed: list[Held] = []
    for held in sorted(idle, key=lambda held: held.used):
        if excess <= 0:
            break
        if remove(held.path):
            removed.append(held)
            excess -= held.nbytes
    if wanted and excess > 0:  # another process has begun to use some of it
        raise too_little
    return removed
