"""What the tokens of a tokenizer stand for."""

from __future__ import annotations

from pathlib import Path

from kit.tiny_gguf import write_tiny_gguf
from potluck.coordinator.text.opening import open_tokenizer
from potluck.coordinator.text.vocabularies import pieces


def test_every_id_has_its_bytes_and_control_tokens_have_theirs(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", layers=1, tokenizer="bpe", controls=("<|a|>",))
    tokenizer = open_tokenizer(path)
    found = pieces(tokenizer)
    assert len(found) == tokenizer.vocabulary
    assert found[-1] == b"<|a|>"
    ids = tokenizer.encode("ab ab", special=False, bos=False)
    assert b"".join(found[token] for token in ids) == b"ab ab"
