"""Opens the tokenizer of a model, of whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer
from potluck.coordinator.text.tokenizer import Tokenizer


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file or of a Hugging Face folder. Raises ModelError when none can be read."""
    if path.is_dir():
        from potluck.coordinator.text.hf_tokenizer import HuggingFaceTokenizer

        return HuggingFaceTokenizer(path)
    return GgufTokenizer(path)
