"""Reads how a model's makers would have it sampled, for requests that leave it open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from potluck.coordinator.generation.sampling import SamplingParams
from potluck.errors import ModelError
from potluck.models.files import LocalSource, read_json
from potluck.models.manifest import Manifest

_FILE = "generation_config.json"
_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
"""The metadata of a GGUF file that say the same."""


class _Told(Struct, frozen=True):
    """What is read, within the bounds that requests have."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None


def sampling_defaults(manifest: Manifest, path: Path) -> SamplingParams:
    """The parameters of requests that leave them out: the model's own, or else OpenAI's.

    path: the model's file or directory. Raises ModelError when they are of the wrong type or out of bounds.
    """
    where, told = _read(manifest, path)
    try:
        read = msgspec.structs.asdict(msgspec.convert(told, _Told))
    except msgspec.ValidationError as error:
        raise ModelError(f"{where} is broken ({error}); fetch it again.") from error
    return SamplingParams(**{name: value for name, value in read.items() if value is not None})


def _read(manifest: Manifest, path: Path) -> tuple[Path, dict[str, Any]]:
    """The file, and what it says."""
    if manifest.format == "gguf":
        entries = manifest.metadata
        return path, {name: entries[key][1] for key, name in _KEYS.items() if key in entries}
    files = LocalSource(path)
    return path / _FILE, read_json(files, _FILE) if files.size(_FILE) is not None else {}
