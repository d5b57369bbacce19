"""Tells the path of a model on this machine from the name of a model elsewhere."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = (".gguf", ".safetensors")


def is_path(model: str) -> bool:
    """Whether this is meant as a path. A folder of the same name that holds no model does not make a name a path."""
    path = Path(model)
    if path.is_absolute() or model.startswith((".", "~")) or path.suffix in _SUFFIXES:
        return True
    return path.is_file() or (path / "config.json").is_file()
