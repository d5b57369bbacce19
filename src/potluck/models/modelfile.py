"""Writes a whole Hugging Face model as one ordinary GGUF file, tokenizer included, for `potluck convert`."""

from __future__ import annotations

from pathlib import Path

from potluck.errors import ModelError
from potluck.models.files import LocalSource, Progress
from potluck.models.manifest import Manifest
from potluck.models.spanfile import Header, write_span_file
from potluck.models.spans import plan_model
from potluck.models.tokenizer_metadata import tokenizer_entries
from potluck.types import Quantize


def write_model_file(
    manifest: Manifest, out: Path, quantize: Quantize, source: LocalSource, progress: Progress = lambda _: None
) -> None:
    """Write the model to `out`; stock llama.cpp can load it. An interrupted run continues where it stopped.

    Raises ModelError when `out` exists, when the model is already a GGUF file, or when llama.cpp cannot run the model
    or its tokenizer.
    """
    if out.exists():
        raise ModelError(f"{out} already exists: remove it, or choose another name.")
    if manifest.format == "gguf":
        raise ModelError(f"{manifest.name} is a GGUF file already: copy it.")
    header, pieces = plan_model(manifest, quantize)
    entries = header.entries | tokenizer_entries(source.folder, manifest.vocabulary)
    write_span_file(out, Header(header.architecture, entries), pieces, source, progress)
