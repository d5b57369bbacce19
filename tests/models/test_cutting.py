"""Where models may be cut, and what spans are told. That they compute rightly is shown by the engine's tests."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potluck.errors import ModelError
from potluck.models import cutting, kept
from potluck.models.architectures import TABLE, Metadata, Recurrent
from potluck.models.gguf import geometry
from potluck.models.manifest import Tensor
from potluck.types import ANY_NUMBER, Span

EMBEDDING = Tensor("token_embd.weight", "tiny.gguf", 0, 1, "Q8_0", (64, 288), "", None)


def metadata(architecture: str, layers: int, **entries: Any) -> Metadata:
    named: dict[str, tuple[list[str], Any]] = {
        f"{architecture}.{key.replace('__', '.')}": ([], value) for key, value in entries.items()
    }
    return Metadata(architecture, named, layers, 288)


@pytest.mark.parametrize(
    ("model", "points"),
    [
        (metadata("qwen3moe", 4), (0, 1, 2, 3, 4)),
        (metadata("gpt-oss", 8), (0, 2, 4, 6, 8)),
        (metadata("gpt-oss", 7), (0, 1, 3, 5, 7)),
        (metadata("gemma3", 8, attention__sliding_window=4), (0, 1, 2, 3, 4, 5, 7, 8)),
        (metadata("gemma3", 4), (0, 1, 2, 3, 4)),
        (metadata("cohere2moe", 8), (0, 2, 3, 4, 6, 7, 8)),
        (metadata("llama4", 10), (0, 4, 10)),
        (metadata("smollm3", 10), (0, 4, 8, 10)),
        (metadata("qwen3next", 8, attention__head_count=4), (0, 4, 8)),
        (metadata("jamba", 6, attention__head_count_kv=[0, 2, 0, 0, 2, 0]), (0, 2, 6)),
        (metadata("mamba2", 3), (0, 1, 2, 3)),
        (metadata("mimo2", 4, attention__sliding_window_pattern=[0, 0, 1, 1]), (0, 3, 4)),
        (metadata("mimo2", 4, attention__sliding_window_pattern=[0, 0, 0, 0]), (0, 4)),
    ],
)
def test_each_span_has_the_kinds_of_layers_that_it_needs(model: Metadata, points: tuple[int, ...]) -> None:
    assert cutting.cuts(model).points == points


def test_no_span_has_as_many_layers_as_a_model_that_llama_cpp_recognises() -> None:
    cuts = cutting.cuts(metadata("deepseek2", 61))
    assert not cuts.allows(Span(3, 29))
    assert cuts.allows(Span(3, 30))
    assert cutting.cuts(metadata("deepseek2", 27)).allows(Span(0, 26))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (metadata("bert", 4), "it is an encoder"),
        (metadata("gemma3", 62), "recognises one of 62 layers"),
        (metadata("gemma4", 8, attention__shared_kv_layers=2), "need more than the row"),
        (metadata("llama4", 8, attention__sliding_window=0), "by their number"),
        (metadata("glm4", 8), "only if its positions have sections"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(model: Metadata, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        cutting.cuts(model)


def test_a_later_span_has_fewer_leading_layers_without_experts() -> None:
    model = metadata("deepseek2", 8, leading_dense_block_count=3, embedding_length=64, attention__head_count=4)

    def leading(span: Span) -> Any:
        return cutting.SpanMetadata(model, span).entries()["deepseek2.leading_dense_block_count"][1]

    assert [leading(span) for span in (Span(0, 7), Span(2, 5), Span(3, 7), Span(5, 6))] == [3, 1, 0, 0]


def test_only_what_is_known_to_be_one_for_each_layer_is_cut() -> None:
    entries = {"rope__dimension_sections": [1, 2, 3, 4], "attention__head_count_kv": [5, 6, 7, 8]}
    model = metadata("llama", 4, embedding_length=64, attention__head_count=4, **entries)
    cut = cutting.SpanMetadata(model, Span(1, 2)).entries()
    assert cut["llama.rope.dimension_sections"][1] == [1, 2, 3, 4]
    assert cut["llama.attention.head_count_kv"][1] == [6, 7]
    assert cut["llama.attention.key_length"][1] == 16


def test_how_much_sessions_can_forget() -> None:
    assert cutting.most_forgotten(metadata("qwen3moe", 4)) == ANY_NUMBER
    assert cutting.most_forgotten(metadata("gpt-oss", 4)) == 1
    assert cutting.most_forgotten(metadata("unheard-of", 4)) == 1
    assert cutting.most_forgotten(metadata("mamba2", 4)) == 0


KEYS = (
    *cutting.COUNTS,
    *cutting.PER_LAYER,
    cutting.SECTIONS,
    "attention.key_length",
    "attention.key_length_swa",
    "attention.value_length",
    "expert_count",
    "expert_used_count",
    "shortconv.l_cache",
    "ssm.conv_kernel",
    "ssm.group_count",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
)
NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 1 << 23, 1 << 40, -1, 1.5, True])
VALUES = NUMBERS | st.text(max_size=3) | st.lists(NUMBERS, min_size=7, max_size=8) | st.just(["x"] * 8)


@settings(max_examples=500)
@given(st.sampled_from(sorted(TABLE)), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=5))
def test_any_metadata_are_refused_with_a_sentence_or_can_be_cut(architecture: str, strange: dict[str, Any]) -> None:
    usual = {"embedding_length": 64, "block_count": 8, "context_length": 512, "attention.head_count": 4}
    entries: dict[str, Any] = {f"{architecture}.{key}": ([], value) for key, value in (usual | strange).items()}
    try:
        sizes = geometry("tiny", entries | {"general.architecture": ([], architecture)}, [EMBEDDING])
        model = Metadata(architecture, entries, sizes.layers, sizes.vocabulary)
        cuts = cutting.cuts(model)
        kept.kept(model)
    except ModelError:
        return
    assert cuts.points[0] == 0
    assert cuts.layers == sizes.layers
    mixed = TABLE[architecture].recurrent not in (Recurrent.NONE, Recurrent.ALL)
    for span in cuts.spans():
        told = cutting.SpanMetadata(model, span).entries()
        assert told[f"{architecture}.block_count"][1] == len(span)
        if mixed and len(cuts.points) > 2:
            assert len(set(cutting.recurrent_layers(model)[span.first : span.last + 1])) == 2
