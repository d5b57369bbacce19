"""Hugging Face directories that somebody has damaged or made on purpose: each is read, or refused with a sentence."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.damage import damaged, damages, shares
from kit.sentences import check_sentence, refused
from kit.tiny_hf import write_tiny_hf
from potluck.errors import ModelError
from potluck.models.files import LocalSource
from potluck.models.pickled import read_checkpoint
from potluck.models.safetensors import read_safetensors
from potluck.models.sizes import part_sizes
from potluck.models.sources import open_model
from potluck.models.spans import engines_for
from potluck.types import Quantize

DEEP = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path) -> Path:
    return write_tiny_hf(tmp_path / "tiny", layers=2, shards=1)


def understand(folder: Path) -> None:
    """All that a coordinator does with the model's index before it serves it."""
    manifest = open_model(folder)
    for engine in engines_for(manifest):
        part_sizes(manifest, engine, Quantize.Q8_0)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    "content", [DEEP, b"[" * 100_000, b"[]", b'{"a": "\xff"}', b"1" * 10_000, b"{" + b'"a":[],' * (1 << 22) + b'"b":1}']
)
def test_json_that_nobody_means_is_refused(model, file, content):
    (model / file).write_bytes(content)
    refused(model, understand)


def header(entries: dict[str, Any] | bytes, data: int = 8, length: int | None = None) -> bytes:
    encoded = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + bytes(data)


def entry(begin: Any, end: Any, *shape: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        header({}, length=1 << 60),
        header({}, length=(1 << 64) - 1),
        header(DEEP),
        header(b'{"__metadata__":' + DEEP + b"}"),
        header({"a": entry(-8, 0, 2)}),
        header({"a": entry(0, 8, 2), "b": entry(4, 8, 1)}),
        header({"a": entry(0, 8, 2), "b": entry(0, 8, 2)}),
        header({"a": entry(4, 8, 1)}),
        header({"a": entry(0, 4, 1)}),
        header(b'{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4, 1)).encode(),) * 2)),
        header({"a": entry(0, 8, -1, -2)}),
        header({"a": entry(0, 0, *[10**18] * 100_000)}),
        header({"a": entry(0, 8, *[1] * 100_000, 2)}),
        header({"a": entry(0, 10**400, 10**400)}),
        header({"a": entry(0.0, 8.5, 2)}),
        header({"a": entry("0", "8", 2)}),
        header({"a": entry(False, 8, 2)}),
        header({"a": entry(0, 8, 2, dtype=["F32"])}),
        header({"a": [1]}),
        header({"\ud800": entry(0, 8, 2)}),
    ],
)
def test_safetensors_that_nobody_means_are_refused(model, content):
    (model / WEIGHTS).write_bytes(content)
    refused(model, understand)


@given(damages, shares)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_safetensors_are_read_or_refused_with_a_sentence(tmp_path, damages, share):
    folder = tmp_path / "tiny"
    if not folder.exists():
        write_tiny_hf(folder, layers=1, hidden=32, heads=1, feed_forward=32, vocabulary=32, shards=1)
        (tmp_path / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(damaged((tmp_path / WEIGHTS).read_bytes(), damages, share))
    try:
        understand(folder)
    except ModelError as error:
        check_sentence(error, folder)


CONFIG_KEYS = [
    "architectures", "model_type", "num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings",
    "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "hidden_act", "rms_norm_eps",
    "rope_theta", "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window", "layer_types",
    "quantization_config", "partial_rotary_factor", "tie_word_embeddings",
]  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64}
odd_values: st.SearchStrategy[Any] = st.sampled_from([
    0, -1, 1, 7, 1 << 31, 1 << 70, 10**400, 0.0, -1.5, 1e308, float("nan"), float("inf"), True, None,
    "", "\n", "x" * 5000, "\ud800", [], [[]], [0], {}, [{"a": [None]}],
    ["LlamaForCausalLM"], ["Qwen2ForCausalLM", 3], ["GPTNeoXForCausalLM"],
    {"rope_type": []}, {"type": "yarn"}, {"rope_type": "yarn", "factor": 1e300}, {"rope_type": "linear", "factor": "2"},
    LLAMA3, LLAMA3 | {"high_freq_factor": 1.0}, LLAMA3 | {"high_freq_factor": 1e-300}, LLAMA3 | {"factor": 0},
])  # fmt: skip


@given(st.dictionaries(st.sampled_from(CONFIG_KEYS), odd_values, min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_odd_config_is_read_or_refused_with_a_sentence(tmp_path, changes):
    folder = tmp_path / "tiny"
    if not folder.exists():
        write_tiny_hf(folder, layers=1, hidden=32, heads=1, feed_forward=32, vocabulary=32, shards=1)
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    try:
        understand(folder)
    except ModelError as error:
        check_sentence(error, folder)


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("model/data.pkl", pickled)
    return path


BOMB = (
    b"\x80\x02}X\x01\x00\x00\x00a)" + b"".join(b"q%cq%ch%ch%c\x86" % (n, n, n, n) for n in range(1, 100)) + b"u."
)  # a tuple of the same tuple twice, a hundred times over


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02.",
        b"\x80\x02}r\xff\xff\xff\x7f.",  # the memo's largest index: 16 GiB
        BOMB,
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b")\x85" * 100_000 + b".",
        b"\x80\x02]" + b"N" * (1 << 21) + b".",
        pickle.dumps({"a": 1 << (1 << 20)}, 2),
        pickle.dumps({"a": [[1]] * 10}, 4),
        pickle.dumps(3, 2),
    ],
)
def test_pickles_that_nobody_means_are_refused(tmp_path, pickled):
    path = archive(tmp_path / "model.bin", pickled)
    try:
        assert read_checkpoint(LocalSource(tmp_path), path.name) == []
    except ModelError as error:
        check_sentence(error, path)


def test_a_pickle_that_is_compressed_is_not_blown_up(tmp_path):
    path = archive(tmp_path / "model.bin", bytes(1 << 26), zipfile.ZIP_DEFLATED)
    assert "is compressed" in refused(path, lambda path: read_checkpoint(LocalSource(tmp_path), path.name))


@given(damages, shares, st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_checkpoints_are_read_or_refused_with_a_sentence(tmp_path, damages, share, inside):
    """inside: the pickle is damaged, and not the archive around it."""
    path, whole = tmp_path / "model.bin", pickle.dumps({"a": [1, "b"], "c": {}}, 2)
    archive(path, damaged(whole, damages, share) if inside else whole)
    if not inside:
        path.write_bytes(damaged(path.read_bytes(), damages, share))
    try:
        read_checkpoint(LocalSource(tmp_path), path.name)
    except ModelError as error:
        check_sentence(error, path)


def test_a_shape_is_never_multiplied_beyond_all_bounds(model):
    """read_safetensors alone, whose sizes are those of the file."""
    (model / WEIGHTS).write_bytes(header({"a": entry(0, 8, 1 << 40, 1 << 40)}))
    refused(model, lambda folder: read_safetensors(LocalSource(folder), WEIGHTS))
