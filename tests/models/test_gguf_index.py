"""The reader of GGUF indexes: it finds what the library finds, and ends soon on whatever a file claims."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import HealthCheck, given, settings

from kit.damage import damaged, damages, shares
from kit.sentences import check_sentence, refused
from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.errors import ModelError
from potluck.models.gguf_index import GgufIndex, read_index
from potluck.models.sources import open_model

ARRAY, STRING, UINT32 = int(GGUFValueType.ARRAY), int(GGUFValueType.STRING), int(GGUFValueType.UINT32)


def by_the_library(path: Path) -> tuple[dict[str, Any], list[Any]]:
    reader = GGUFReader(path)
    fields = {name: ([kind.name for kind in field.types], field.contents()) for name, field in reader.fields.items()}
    tensors = [
        (each.name, each.tensor_type.name, tuple(map(int, each.shape)), each.data_offset, each.n_bytes)
        for each in reader.tensors
    ]
    return {name: field for name, field in fields.items() if not name.startswith(("GGUF.", "tokenizer."))}, tensors


def by_us(path: Path) -> tuple[dict[str, Any], list[Any]]:
    index = read_index(path)
    return index.metadata, [(each.name, each.dtype, each.shape, each.offset, each.nbytes) for each in index.tensors]


def write_every_type(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    values: dict[GGUFValueType, Any] = {
        GGUFValueType.UINT8: 255, GGUFValueType.INT8: -128, GGUFValueType.UINT16: 65535, GGUFValueType.INT16: -32768,
        GGUFValueType.UINT32: 2**32 - 1, GGUFValueType.INT32: -(2**31), GGUFValueType.UINT64: 2**64 - 1,
        GGUFValueType.INT64: -(2**63), GGUFValueType.FLOAT32: 0.1, GGUFValueType.FLOAT64: 0.1,
        GGUFValueType.BOOL: True, GGUFValueType.STRING: "Kartoffelsalat für alle 🥗",
    }  # fmt: skip
    for kind, value in values.items():
        writer.add_key_value(f"one.{kind.name}", value, kind)
        writer.add_key_value(f"some.{kind.name}", [value, value], GGUFValueType.ARRAY, kind)
    writer.add_uint32("general.alignment", 64)
    writer.data_alignment = 64
    writer.add_tensor("vector", np.ones(3, np.float32))
    writer.add_tensor("cube", np.ones((2, 3, 4), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "write",
    [
        write_every_type,
        write_tiny_gguf,
        lambda path: write_tiny_gguf(path, "llama", tokenizer="bpe", kv_heads=1, dtype=EXACT),
    ],
)
def test_it_finds_what_the_library_finds(tmp_path, write):
    path = write(tmp_path / "tiny.gguf")
    assert by_us(path) == by_the_library(path)


def test_it_finds_the_same_in_real_weights_and_sooner(smollm2):
    began = time.process_time()
    library = by_the_library(smollm2)
    between = time.process_time()
    assert by_us(smollm2) == library
    assert time.process_time() - between < between - began


def header(*keys: bytes, tensors: bytes = b"", counts: tuple[int, int] | None = None, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, *(counts or (0, len(keys)))) + b"".join(keys) + tensors


def text(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "nothing but a magic": b"GGUF" + bytes(20),
    "2^60 tensors": header(counts=(1 << 60, 0)),
    "2^60 keys": header(counts=(0, 1 << 60)),
    "big-endian": header(version=3 << 24),
    "version 1": header(version=1),
    "a key of 2^60 bytes": header(text(b"", 1 << 60)),
    "a text of 2^60 bytes": header(key(b"general.name", STRING, text(b"", 1 << 60))),
    "a token of 2^60 bytes": header(key(b"tokenizer.x", ARRAY, array(STRING, 2, text(b"", 1 << 60)))),
    "a token of 2^64 - 1 bytes": header(key(b"tokenizer.x", ARRAY, array(STRING, 2, text(b"", 2**64 - 1)))),
    "an array of 2^40 items": header(key(b"llama.x", ARRAY, array(UINT32, 1 << 40))),
    "2^40 tokens": header(key(b"tokenizer.x", ARRAY, array(STRING, 1 << 40, bytes(1 << 16)))),
    "2^60 scores": header(key(b"tokenizer.x", ARRAY, array(UINT32, 1 << 60))),
    "arrays 20,000 deep": header(key(b"llama.x", ARRAY, array(ARRAY, 1) * 20_000)),
    "arrays of tokens 20,000 deep": header(key(b"tokenizer.x", ARRAY, array(ARRAY, 1) * 20_000)),
    "an unknown type": header(key(b"llama.x", 99, b"")),
    "a key twice": header(*[key(b"llama.x", UINT32, bytes(4))] * 2),
    "a key that is not UTF-8": header(key(b"\xff", UINT32, bytes(4))),
    "alignment 0": header(key(b"general.alignment", UINT32, bytes(4))),
    "alignment 2^31": header(key(b"general.alignment", UINT32, struct.pack("<I", 1 << 31))),
    "alignment 33": header(key(b"general.alignment", UINT32, struct.pack("<I", 33))),
    "an alignment that is a text": header(key(b"general.alignment", STRING, text(b"32"))),
    "2^32 - 1 dimensions": header(counts=(1, 0), tensors=text(b"t") + b"\xff" * 4),
    "200 dimensions": header(counts=(1, 0), tensors=tensor(shape=(2,) * 200)),
    "a dimension of 2^63": header(counts=(1, 0), tensors=tensor(shape=(1 << 63,))),
    "an unknown tensor type": header(counts=(1, 0), tensors=tensor(kind=999)),
    "a broken block": header(counts=(1, 0), tensors=tensor(shape=(33,), kind=8)),
    "a tensor beyond the end": header(counts=(1, 0), tensors=tensor(offset=1 << 62) + bytes(500)),
    "a tensor twice": header(counts=(2, 0), tensors=tensor() * 2 + bytes(500)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_the_index_claims_is_refused_with_a_sentence(tmp_path, name):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name])
    refused(path, read_index)
    refused(path, open_model)


def test_empty_arrays_are_left_out(tmp_path):
    path = tmp_path / "empty.gguf"
    path.write_bytes(header(key(b"general.tags", ARRAY, array(STRING, 0))))
    assert read_index(path) == GgufIndex({}, ())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "whole.gguf"
    return write_tiny_gguf(path, "llama", layers=1, hidden=32, vocabulary=320, tokenizer="bpe")


@given(damages, shares)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused_with_a_sentence(tmp_path, whole, damages, share):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damaged(whole.read_bytes(), damages, share))
    try:
        open_model(path)
    except ModelError as error:
        check_sentence(error, path)
