"""What a manifest may say: every size that follows from others, and bounds for those that follow from nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.sentences import check_sentence
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.errors import ModelError
from potluck.models import vetting
from potluck.models.manifest import Manifest
from potluck.models.sources import open_model
from potluck.models.spans import engines_for, plan_raw_span, plan_span
from potluck.models.vetting import decode
from potluck.types import EngineKind, Quantize, Span


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Manifest:
    return open_model(write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", "llama", layers=2, dtype=EXACT))


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory) -> Manifest:
    return open_model(write_tiny_hf(tmp_path_factory.mktemp("hf") / "tiny", layers=2))


def said(manifest: Manifest, path: str, value: Any) -> str:
    """The sentence with which the manifest is refused once the value is in it. path: keys, joined by slashes."""
    content = json.loads(manifest.encode())
    *parents, last = path.split("/")
    place = content
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[last] = value
    with pytest.raises(ModelError) as caught:
        decode(json.dumps(content).encode())
    check_sentence(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("name", "a\nb", "cannot have the name"),
        ("layers", 0, "layers is 0, which is not from 1 to 1024"),
        ("layers", 1 << 31, "layers is 2147483648"),
        ("layers", 3, "gives sizes that differ from those in its metadata"),
        ("hidden_size", 128, "gives sizes that differ from those in its metadata"),
        ("vocabulary", 321, "gives sizes that differ from those in its metadata"),
        ("vocabulary", 1 << 24, "vocabulary is 16777216"),
        ("context", 1 << 31, "context is 2147483648"),
        ("context", 1, "gives sizes that differ from those in its metadata"),
        ("kv_width", 0, "kv_width is 0"),
        ("kv_width", 1, "gives sizes that differ from those in its metadata"),
        ("architecture", "qwen2", "another architecture than its metadata"),
        ("tensors", [], "claims to have 0 tensors"),
        ("tensors/2/name", "blk.0.attn_q.weight", "two of its tensors have the same name"),
        ("tensors/1/name", "x" * 64, "because no tensor has such a name"),
        ("tensors/1/name", "\n", "because no tensor has such a name"),
        ("tensors/1/file", "../secret", "is not the name of a file"),
        ("tensors/1/file", "..", "is not the name of a file"),
        ("tensors/1/file", "a\\b", "is not the name of a file"),
        ("tensors/1/file", "", "is not the name of a file"),
        ("tensors/1/nbytes", 1 << 40, "because it says 1099511627776 bytes and its shape says"),
        ("tensors/1/nbytes", -1, "because it says -1 bytes"),
        ("tensors/1/offset", -1, "its place in the file is impossible"),
        ("tensors/1/offset", 1 << 60, "its place in the file is impossible"),
        ("tensors/1/offset", 0, ""),
        ("tensors/1/shape", [1 << 50, 1 << 50], "one of its dimensions is negative or impossibly large"),
        ("tensors/1/shape", [64, -64], "one of its dimensions is negative"),
        ("tensors/1/shape", [64, 0], ""),
        ("tensors/1/shape", [33, 64], "its rows are not a whole number of blocks of Q8_0"),
        ("tensors/1/shape", [1] * 1000, "it has 1000 dimensions"),
        ("tensors/1/dtype", "Q9_9", "its type 'Q9_9' is unknown"),
        ("tensors/1/dtype", "BF16", "because it says"),
        ("tensors/1/layer", 5, "because it belongs to no layer of this model"),
        ("tensors/1/layer", None, "because it belongs to no layer of this model"),
        ("tensors/1/sha256", "", "lacks the SHA-256"),
        ("metadata/general.alignment", [["UINT32"], 0], "has an impossible value for general.alignment"),
        ("metadata/general.alignment", [["UINT32"], 1 << 31], "has an impossible value for general.alignment"),
        ("metadata/split.count", [["UINT16"], 9], "has an impossible value for split.count"),
        ("metadata/tokenizer.ggml.tokens", [["ARRAY", "STRING"], ["a"]], "has an impossible value for tokenizer"),
        ("metadata/llama.attention.head_count", [["UINT32"], 0], "head_count, which is not a number from 1 to 1024"),
        ("metadata/llama.attention.head_count", [["UINT32"], 1 << 31], "has an impossible value for llama."),
        ("metadata/llama.attention.head_count", [["ARRAY", "UINT32"], [2, 2, 2]], "not one for each layer"),
        (
            "metadata/llama.attention.head_count_kv",
            [["ARRAY", "UINT32"], [2, 0]],
            "head_count_kv, which is not a number",
        ),
        (
            "metadata/llama.attention.head_count_kv",
            [["UINT32"], 1000],
            "gives sizes that differ from those in its metadata",
        ),
        ("metadata/llama.attention.key_length", [["UINT32"], 0], "key_length, which is not a number"),
        ("metadata/llama.attention.key_length_swa", [["UINT32"], 1 << 20], "has an impossible value for llama."),
        ("metadata/llama.attention.key_length_swa", [["UINT32"], 64], "gives sizes that differ"),
        ("metadata/llama.nextn_predict_layers", [["UINT32"], 2], "which is not a number below 2"),
        ("metadata/llama.full_attention_interval", [["STRING"], "x"], "full_attention_interval, which is no count"),
        ("metadata/llama.rope.dimension_sections", [["ARRAY", "FLOAT32"], [0.5]], "which is no count"),
        ("metadata/llama.leading_dense_block_count", [["INT32"], -1], "which is no count"),
        ("metadata/llama.rope.dimension_count", [["UINT32"], 1 << 31], "has an impossible value for llama."),
        ("metadata/llama.feed_forward_length", [["UINT32"], -1], "has an impossible value for llama."),
        ("metadata/x", [["UINT8"], 256], "has an impossible value for x"),
        ("metadata/x", [["UINT8"], True], "has an impossible value for x"),
        ("metadata/x", [["FLOAT32"], 1e39], "has an impossible value for x"),
        ("metadata/x", [["FLOAT32"], None], "has an impossible value for x"),
        ("metadata/x", [["ARRAY", "ARRAY"], [[1]]], "has an impossible value for x"),
        ("metadata/x", [["ARRAY", "UINT8"], []], "has an impossible value for x"),
        ("metadata/x", [["STRING"], "x" * (1 << 17)], "has an impossible value for x"),
        ("metadata/x", [["STRING"], "x" * (1 << 21)], "has metadata of more than 1024 KiB"),
        ("metadata/x", [[], 1], "has an impossible value for x"),
        ("metadata/x", 1, "has an impossible value for x"),
        ("metadata", {f"x{number}": [["UINT8"], 1] for number in range(5000)}, "claims to have 5000 keys"),
    ],
)
def test_a_gguf_model_that_cannot_be_is_refused(gguf, path, value, sentence):
    assert sentence in said(gguf, path, value)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("metadata/config/num_attention_heads", 0, "is broken (Expected `int` >= 1"),
        ("metadata/config/num_hidden_layers", 1 << 31, "is broken (Expected `int` <= 1073741824"),
        ("metadata/config/head_dim", 128, "gives sizes that differ from those in its metadata"),
        ("metadata/config/hidden_size", "64", "is broken (Expected `int | null`, got `str`"),
        ("metadata/config/model_type", "qwen2", "another architecture than its config.json"),
        ("metadata/config/architectures", ["BertForMaskedLM"], "which no engine runs"),
        ("metadata/config", [], "metadata other than a config.json"),
        ("metadata/more", {}, "metadata other than a config.json"),
        ("tensors/0/dtype", "Q8_0", "its type 'Q8_0' is unknown"),
        ("tensors/0/nbytes", 1 << 40, "because it says 1099511627776 bytes"),
    ],
)
def test_a_hugging_face_model_that_cannot_be_is_refused(huggingface, path, value, sentence):
    assert sentence in said(huggingface, path, value)


def test_tensors_that_overlap_are_refused_unless_they_are_the_same(huggingface):
    first = next(each for each in huggingface.tensors if each.name == "lm_head.weight")
    place = next(number for number, each in enumerate(huggingface.tensors) if each.name == "model.embed_tokens.weight")
    content = json.loads(huggingface.encode())
    content["tensors"][place] |= {"file": first.file, "offset": first.offset}
    assert decode(json.dumps(content).encode()).tensors[place].offset == first.offset
    content["tensors"][place]["offset"] += 4
    with pytest.raises(ModelError, match="says that some tensors overlap in"):
        decode(json.dumps(content).encode())


def test_what_is_no_manifest_is_refused():
    for data in (b"", b"null", b"{}", b"{" * 100_000, b'{"metadata":' + b"[" * 100_000, b"\xff"):
        with pytest.raises(ModelError, match="not a Potluck manifest"):
            decode(data)
    with pytest.raises(ModelError, match="more than 32 MiB"):
        decode(bytes(vetting.MOST_BYTES + 1))


odd_values: st.SearchStrategy[Any] = st.sampled_from(
    [0, -1, 1, 2, 1 << 20, 1 << 31, 1 << 62, 10**30, 0.5, 1e308, True, None, "", "x", "\n", "\ud7ff", [], [1], {}]
) | st.lists(st.sampled_from([["UINT32"], ["ARRAY", "INT32"], ["STRING"], 1, [1, 2], "x"]), max_size=2)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside this one."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (*path, key)
        yield from places(each, (*path, key))


@pytest.mark.parametrize("form", ["gguf", "huggingface"])
@given(data=st.data())
def test_a_changed_manifest_is_planned_or_refused_with_a_sentence(request, form, data):
    """What a node does with it before it fetches anything."""
    manifest = request.getfixturevalue(form)
    content = json.loads(manifest.encode())
    for _ in range(data.draw(st.integers(1, 3), "changes")):
        *parents, last = data.draw(st.sampled_from(list(places(content))), "place")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = copy.deepcopy(data.draw(odd_values, "value"))
    try:
        changed = decode(json.dumps(content).encode())
        if EngineKind.LLAMACPP in engines_for(changed):
            plan_span(changed, Span(0, 0), Quantize.Q8_0)
        if form == "huggingface":
            plan_raw_span(changed, Span(0, 0))
    except ModelError as error:
        check_sentence(error)
