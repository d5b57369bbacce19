"""Tokenizers of directories without a tokenizer.json, as older models have them."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre

from kit.damage import damaged, damages, shares
from kit.sentences import check_sentence, refused
from kit.tiny_hf import write_tiny_hf
from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer
from potluck.coordinator.text.hf_tokenizer import HuggingFaceTokenizer
from potluck.errors import ModelError
from potluck.models.files import LocalSource
from potluck.models.modelfile import write_model_file
from potluck.models.sources import open_model
from potluck.models.tokenizer_files import tokenizer_json
from potluck.types import Quantize

CORPUS = [
    "The quick brown fox jumps over the lazy dog; I've told it 12345 times, and we'll see.\n\n",
    "Ein Pfund Mehl, 3 Eier, 250 ml Milch: wir haben's!  нещо на Български",
] * 4
PROBES = ["The quick brown fox", " I'VE  12 foxes\n\n", "нещо 🚀 \x00", "a<|end|>b <|end|> c", "e\u0301"]
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = {
    "GPT2TokenizerFast": (None, pre.ByteLevel(add_prefix_space=False)),
    "Qwen2Tokenizer": (
        normalizers.NFC(),
        pre.Sequence([pre.Split(Regex(QWEN2), "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]),
    ),
}


def save(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def byte_level(kind: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    normalizer, tokenizer.pre_tokenizer = KINDS[kind]
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=pre.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_and_merges_are_a_tokenizer(tmp_path: Path, kind: str, named: bool) -> None:
    original = byte_level(kind)
    original.model.save(str(tmp_path))
    original.add_tokens(["<extra>"])
    original.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    size = original.get_vocab_size(with_added_tokens=False)
    save(tmp_path, added_tokens={"<extra>": size, "<|end|>": size + 1}, special_tokens_map={"eos_token": "<|end|>"})
    save(tmp_path, tokenizer_config={"tokenizer_class": kind} if named else {})
    save(tmp_path, config={"model_type": "qwen2" if "Qwen" in kind else "gpt2"})
    tokenizer = HuggingFaceTokenizer(tmp_path)
    assert (tokenizer.vocabulary, tokenizer.eos, tokenizer.stop_ids) == (size + 2, "<|end|>", {size + 1})
    for probe in [*PROBES, "two <extra> words"]:
        expected = original.encode(probe, add_special_tokens=False).ids
        assert tokenizer.encode(probe, special=True, bos=False) == expected
    assert tokenizer.piece(size) == b"<extra>"


def test_ids_between_the_vocabulary_and_an_added_token_belong_to_nobody(tmp_path: Path) -> None:
    original = byte_level("GPT2TokenizerFast")
    original.model.save(str(tmp_path))
    size = original.get_vocab_size()
    save(tmp_path, added_tokens={"<far>": size + 5}, tokenizer_config={"tokenizer_class": "GPT2Tokenizer"})
    tokenizer = HuggingFaceTokenizer(tmp_path)
    assert tokenizer.encode("<far>", special=True, bos=False) == [size + 5]
    assert tokenizer.piece(size + 2) == b""


def test_a_class_whose_way_of_splitting_is_not_known_is_refused(tmp_path: Path) -> None:
    byte_level("GPT2TokenizerFast").model.save(str(tmp_path))
    save(tmp_path, tokenizer_config={"tokenizer_class": "SpoonTokenizer"})
    assert "has the tokenizer SpoonTokenizer without a tokenizer.json" in refused(tmp_path, HuggingFaceTokenizer)
    save(tmp_path, tokenizer_config={})
    assert "of a class that nothing names" in refused(tmp_path, HuggingFaceTokenizer)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("merges.txt", b"#version: 0.2\na b c\n", "has a line that is not a pair of tokens"),
        ("merges.txt", b"\xff", "is not a text in UTF-8"),
        ("merges.txt", None, "merges.txt is missing"),
        ("vocab.json", b'{"a": "b"}', "has ids that are no numbers"),
        ("vocab.json", b'{"a": -1}', "has ids that are no numbers"),
        ("added_tokens.json", b'{"a": 1e9, "b": 100000000}', "gives a token the id 100000000, which is beyond"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"5": 1}}', "is broken"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, file: str, content: bytes | None, reason: str) -> None:
    byte_level("GPT2TokenizerFast").model.save(str(tmp_path))
    save(tmp_path, config={"model_type": "gpt2"})
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    assert reason in refused(tmp_path, HuggingFaceTokenizer)


# SentencePiece

NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
WORDS = ["▁t", "▁th", "▁the", "▁q", "th", "▁qui", "qu", "▁qu", "ck", "▁quick", "he", *"▁theqick", "u"]
PIECES = [
    ("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL),
    *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
    *((word, -float(rank), NORMAL) for rank, word in enumerate(WORDS)),
]  # fmt: skip


def varint(value: int) -> bytes:
    value %= 1 << 64
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def message(*fields: tuple[int, int | float | bytes]) -> bytes:
    parts = []
    for number, value in fields:
        match value:
            case bytes():
                parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
            case float():
                parts.append(varint(number << 3 | 5) + struct.pack("<f", value))
            case int():
                parts.append(varint(number << 3) + varint(value))
    return b"".join(parts)


def pieces_file(pieces: Sequence[tuple[str, float, int]], kind: int = 2, adds_space: bool = True) -> bytes:
    """A SentencePiece model; kind: 1 is Unigram, 2 is BPE."""
    listed = [(1, message((1, text.encode()), (2, score), (3, kind))) for text, score, kind in pieces]
    trainer = message((3, kind), (35, 1), (40, 0), (41, 1), (42, 2), (43, -1))
    return message(*listed, (2, trainer), (3, message((1, b"identity"), (3, int(adds_space)), (4, 0))))


TEXTS = ["the quick", "quick the", " the  quick", "thequick", "a é🥘", "", "the<s>quick", "qui ck\n"]


def with_pieces(folder: Path, content: bytes, **config: Any) -> Path:
    (folder / "tokenizer.model").write_bytes(content)
    save(folder, tokenizer_config={"bos_token": "<s>", "eos_token": "</s>"} | config)
    return folder


@pytest.mark.parametrize("adds_space", [True, False])
def test_a_sentencepiece_model_is_what_llama_cpp_makes_of_its_pieces(tmp_path: Path, adds_space: bool) -> None:
    """llama.cpp merges by the scores themselves, as SentencePiece does."""
    model = write_tiny_hf(tmp_path / "model", layers=1, shards=1)
    with_pieces(model, pieces_file(PIECES, adds_space=adds_space), legacy=True)
    write_model_file(open_model(model), tmp_path / "model.gguf", Quantize.F16, LocalSource(model))
    theirs, ours = GgufTokenizer(tmp_path / "model.gguf"), HuggingFaceTokenizer(model)
    assert (ours.bos, ours.eos, ours.stop_ids) == ("<s>", "</s>", {2})
    for text in TEXTS:
        for special in (True, False):
            assert ours.encode(text, special=special, bos=True) == theirs.encode(text, special=special, bos=True)
    assert ours.encode("the quick", special=True, bos=True)[:1] == [1]
    assert ours.piece(259 + WORDS.index("▁the")) == b" the"


def test_unless_it_is_legacy_only_the_first_text_gets_a_space(tmp_path: Path) -> None:
    ours = HuggingFaceTokenizer(with_pieces(tmp_path, pieces_file(PIECES)))
    ids = {text: number for number, (text, _, _) in enumerate(PIECES)}
    assert ours.encode("the", special=True, bos=True) == [1, ids["▁the"]]
    assert ours.encode("the<s>th", special=True, bos=False) == [ids["▁the"], 1, ids["th"]]
    without = HuggingFaceTokenizer(with_pieces(tmp_path, pieces_file(PIECES), add_bos_token=False))
    assert without.encode("the", special=True, bos=True) == [ids["▁the"]]


def test_runs_of_spaces_may_be_tokens(tmp_path: Path) -> None:
    """As Gemma has them, which adds no space."""
    pieces = [*PIECES, ("▁▁", 0.0, USER), ("▁▁▁", 0.0, USER), ("▁", -99.0, NORMAL)]
    ours = HuggingFaceTokenizer(with_pieces(tmp_path, pieces_file(pieces, adds_space=False)))
    ids = {text: number for number, (text, _, _) in enumerate(pieces)}
    for text, expected in (("th  e", ["th", "▁▁", "e"]), ("   the", ["▁▁▁", "th", "e"]), ("h the", ["h", "▁the"])):
        tokens = ours.encode(text, special=True, bos=False)
        assert tokens == [ids[piece] for piece in expected]
        assert b"".join(map(ours.piece, tokens)).decode() == text


def test_a_unigram_model_takes_the_likeliest_pieces(tmp_path: Path) -> None:
    pieces = [*PIECES[:259], ("▁", -3.0, NORMAL), ("▁th", -2.0, NORMAL), ("e", -2.0, NORMAL), ("▁the", -5.0, NORMAL)]
    ours = HuggingFaceTokenizer(with_pieces(tmp_path, pieces_file(pieces, kind=1)))
    assert ours.encode("the", special=True, bos=False) == [260, 261]
    assert b"".join(map(ours.piece, ours.encode("é", special=True, bos=False))) == " é".encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it holds no pieces"),
        (b"\x80" * 20, "a number is cut off"),
        (message((1, b"")) + b"\x0a\xff\x01", "it is cut off"),
        (pieces_file(PIECES, kind=3), "it is neither BPE nor Unigram"),
        (pieces_file([("x" * 600, 0.0, NORMAL)]), "a piece is broken"),
        (message((1, message((1, b"\xff")))), "utf-8"),
    ],
)
def test_a_broken_sentencepiece_model_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    said = refused(with_pieces(tmp_path, content), HuggingFaceTokenizer)
    assert "is no SentencePiece model" in said
    assert reason in said


@given(damages, shares)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_sentencepiece_model_is_read_or_refused(tmp_path: Path, damages: Any, share: Any) -> None:
    with_pieces(tmp_path, damaged(pieces_file(PIECES), damages, share))
    try:
        tokenizer_json(LocalSource(tmp_path))
        HuggingFaceTokenizer(tmp_path).encode("the quick", special=True, bos=True)
    except ModelError as error:
        check_sentence(error, tmp_path)
