"""The sizes of published models: their metadata and their tensors as GGUF files have them, without weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from potluck.models.gguf import geometry
from potluck.models.gguf_index import ggml_bytes
from potluck.models.manifest import Manifest, Tensor


class Types(NamedTuple):
    """The types of a file's matrices. label: how pages call them."""

    label: str
    experts: str
    matrices: str
    embedding: str
    head: str


PUBLISHED = Types("MXFP4, rest Q8_0", "MXFP4", "Q8_0", "Q8_0", "Q8_0")
"""As OpenAI's models are published: the experts have 4.25 bits a weight."""
Q4_K = Types("Q4_K, ends Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K")
"""4.5 bits a weight. Files that are called Q4_K_M have more bits in some of the matrices, and are up to 8% larger."""
Q4_0 = Types("Q4_0, head Q8_0", "Q4_0", "Q4_0", "Q4_0", "Q8_0")
"""What `--quantize q4_0` makes of a Hugging Face model."""
_LARGE_BLOCK = 256
_INSTEAD = "Q5_0"
"""What llama.cpp takes in place of Q4_K for rows that are no multiple of 256."""


class Mla(NamedTuple):
    """Attention whose keys and values are made of one short row: `q_lora_rank` and so on."""

    query: int
    key_value: int
    rope: int
    nope: int
    value: int


class Model(NamedTuple):
    """A published model.

    source: the config.json that the numbers come from. head: the size of a head. feed_forward: of layers without
    experts. shared: the experts that every token uses. dense: the first layers, which have no experts. biased: the
    projections with a bias. norms: the names of a layer's norms, with their sizes. parameters, active: in thousands of
    millions, as the publisher gives them; the tests compare.
    """

    name: str
    source: str
    architecture: str
    types: Types
    parameters: float
    active: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    context: int
    feed_forward: int = 0
    experts: int = 0
    used: int = 0
    expert_width: int = 0
    shared: int = 0
    dense: int = 0
    gated: bool = True
    biased: tuple[str, ...] = ()
    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    head_norms: bool = False
    sinks: bool = False
    mla: Mla | None = None
    more: dict[str, Any] = {}


_QWEN3 = Model(
    name="Qwen3-30B-A3B",
    source="https://huggingface.co/Qwen/Qwen3-30B-A3B/blob/main/config.json",
    architecture="qwen3moe",
    types=Q4_K,
    parameters=30.5,
    active=3.3,
    layers=48,
    hidden=2048,
    heads=32,
    kv_heads=4,
    head=128,
    vocabulary=151936,
    context=40960,
    experts=128,
    used=8,
    expert_width=768,
    head_norms=True,
    more={"attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6},
)
_GPT_OSS = Model(
    name="gpt-oss-20b",
    source="https://huggingface.co/openai/gpt-oss-20b/blob/main/config.json",
    architecture="gpt-oss",
    types=PUBLISHED,
    parameters=20.9,
    active=3.6,
    layers=24,
    hidden=2880,
    heads=64,
    kv_heads=8,
    head=64,
    vocabulary=201088,
    context=131072,
    experts=32,
    used=4,
    expert_width=2880,
    biased=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", "ffn_gate", "ffn_up", "ffn_down"),
    norms=("attn_norm", "post_attention_norm"),
    sinks=True,
    more={"attention.layer_norm_rms_epsilon": 1e-5, "attention.sliding_window": 128, "rope.freq_base": 150000.0},
)
_LLAMA = Model(
    name="Llama-3-8B",
    source="https://huggingface.co/meta-llama/Meta-Llama-3-8B/blob/main/config.json",
    architecture="llama",
    types=Q4_0,
    parameters=8.0,
    active=8.0,
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head=128,
    vocabulary=128256,
    context=8192,
    feed_forward=14336,
    more={"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 500000.0},
)

MODELS = {
    model.name: model
    for model in (
        _GPT_OSS,
        _GPT_OSS._replace(
            name="gpt-oss-120b",
            source="https://huggingface.co/openai/gpt-oss-120b/blob/main/config.json",
            parameters=116.8,
            active=5.1,
            layers=36,
            experts=128,
        ),
        _QWEN3,
        _QWEN3._replace(
            name="Qwen3-235B-A22B",
            source="https://huggingface.co/Qwen/Qwen3-235B-A22B/blob/main/config.json",
            parameters=235,
            active=22,
            layers=94,
            hidden=4096,
            heads=64,
            expert_width=1536,
        ),
        Model(
            name="GLM-4.5-Air",
            source="https://huggingface.co/zai-org/GLM-4.5-Air/blob/main/config.json",
            architecture="glm4moe",
            types=Q4_K,
            parameters=106,
            active=12,
            layers=46,
            hidden=4096,
            heads=96,
            kv_heads=8,
            head=128,
            vocabulary=151552,
            context=131072,
            feed_forward=10944,
            experts=128,
            used=8,
            expert_width=1408,
            shared=1,
            dense=1,
            biased=("attn_q", "attn_k", "attn_v"),
            norms=("attn_norm", "post_attention_norm"),
            more={"rope.dimension_count": 64},
        ),
        Model(
            name="DeepSeek-V3",
            source="https://huggingface.co/deepseek-ai/DeepSeek-V3/blob/main/config.json",
            architecture="deepseek2",
            types=Q4_K,
            parameters=671,
            active=37,
            layers=61,
            hidden=7168,
            heads=128,
            kv_heads=1,
            head=576,
            vocabulary=129280,
            context=163840,
            feed_forward=18432,
            experts=256,
            used=8,
            expert_width=2048,
            shared=1,
            dense=3,
            mla=Mla(query=1536, key_value=512, rope=64, nope=128, value=128),
        ),
        _LLAMA._replace(
            name="Llama-3-70B",
            source="https://huggingface.co/meta-llama/Meta-Llama-3-70B/blob/main/config.json",
            types=Q4_K,
            parameters=70.6,
            active=70.6,
            layers=80,
            hidden=8192,
            heads=64,
            feed_forward=28672,
        ),
        _LLAMA,
        Model(
            name="GPT-NeoX-20B",
            source="https://huggingface.co/EleutherAI/gpt-neox-20b/blob/main/config.json",
            architecture="gptneox",
            types=Q4_0,
            parameters=20.6,
            active=20.6,
            layers=44,
            hidden=6144,
            heads=64,
            kv_heads=64,
            head=96,
            vocabulary=50432,
            context=2048,
            feed_forward=24576,
            gated=False,
            biased=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"),
        ),
    )
}


def manifest_of(model: Model) -> Manifest:
    """The manifest of a file with this model. Its tensors have no bytes and no hashes."""
    metadata = {f"{model.architecture}.{key}": [[], value] for key, value in metadata_of(model).items()}
    metadata["general.architecture"] = [["STRING"], model.architecture]
    found = tuple(tensors_of(model))
    sizes = geometry(model.name, metadata, found)
    return Manifest("gguf", model.name, model.architecture, *sizes, metadata=metadata, tensors=found)


def metadata_of(model: Model) -> dict[str, Any]:
    """The metadata, by keys without the architecture."""
    metadata = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.hidden,
        "feed_forward_length": model.feed_forward or model.expert_width,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head,
        "attention.value_length": model.head,
    }
    if model.experts:
        metadata |= {
            "expert_count": model.experts,
            "expert_used_count": model.used,
            "expert_feed_forward_length": model.expert_width,
            "expert_shared_count": model.shared,
            "leading_dense_block_count": model.dense,
        }
    if mla := model.mla:
        metadata |= {
            "attention.q_lora_rank": mla.query,
            "attention.kv_lora_rank": mla.key_value,
            "attention.value_length": mla.key_value,
            "attention.key_length_mla": mla.nope + mla.rope,
            "attention.value_length_mla": mla.value,
            "rope.dimension_count": mla.rope,
        }
    return metadata | model.more


def tensors_of(model: Model) -> Iterator[Tensor]:
    """All tensors, the ends first."""
    types = model.types
    yield _tensor("token_embd.weight", types.embedding, (model.hidden, model.vocabulary))
    yield _tensor("output_norm.weight", "F32", (model.hidden,))
    yield _tensor("output.weight", types.head, (model.hidden, model.vocabulary))
    for layer in range(model.layers):
        yield from layer_tensors(model, layer)


def layer_tensors(model: Model, layer: int) -> Iterator[Tensor]:
    matrices = [*(_latent(model, model.mla) if model.mla else _attention(model)), *_feed_forward(model, layer)]
    for name, shape in matrices:
        is_experts = name.endswith("_exps")
        dtype = "F32" if name == "ffn_gate_inp" else _type(model.types, shape[0], is_experts)
        yield _tensor(f"blk.{layer}.{name}.weight", dtype, shape, layer)
        if name.removesuffix("_exps") in model.biased:
            yield _tensor(f"blk.{layer}.{name}.bias", "F32", shape[1:], layer)
    for name in model.norms:
        yield _tensor(f"blk.{layer}.{name}.weight", "F32", (model.hidden,), layer)
    if model.head_norms:
        yield _tensor(f"blk.{layer}.attn_q_norm.weight", "F32", (model.head,), layer)
        yield _tensor(f"blk.{layer}.attn_k_norm.weight", "F32", (model.head,), layer)
    if model.sinks:
        yield _tensor(f"blk.{layer}.attn_sinks.weight", "F32", (model.heads,), layer)


Matrices = Iterator[tuple[str, tuple[int, ...]]]


def _attention(model: Model) -> Matrices:
    wide, narrow = model.heads * model.head, model.kv_heads * model.head
    yield from (
        ("attn_q", (model.hidden, wide)),
        ("attn_k", (model.hidden, narrow)),
        ("attn_v", (model.hidden, narrow)),
    )
    yield "attn_output", (wide, model.hidden)


def _latent(model: Model, mla: Mla) -> Matrices:
    yield "attn_q_a", (model.hidden, mla.query)
    yield "attn_q_b", (mla.query, model.heads * (mla.nope + mla.rope))
    yield "attn_kv_a_mqa", (model.hidden, mla.key_value + mla.rope)
    yield "attn_k_b", (mla.nope, mla.key_value, model.heads)
    yield "attn_v_b", (mla.key_value, mla.value, model.heads)
    yield "attn_output", (model.heads * mla.value, model.hidden)


def _feed_forward(model: Model, layer: int) -> Matrices:
    if not model.experts or layer < model.dense:
        yield from _gated(model, model.feed_forward, "")
        return
    yield "ffn_gate_inp", (model.hidden, model.experts)
    for name, shape in _gated(model, model.expert_width, "_exps"):
        yield name, (*shape, model.experts)
    if model.shared:
        yield from _gated(model, model.shared * model.expert_width, "_shexp")


def _gated(model: Model, width: int, suffix: str) -> Matrices:
    if model.gated:
        yield f"ffn_gate{suffix}", (model.hidden, width)
    yield f"ffn_up{suffix}", (model.hidden, width)
    yield f"ffn_down{suffix}", (width, model.hidden)


def _type(types: Types, columns: int, is_experts: bool) -> str:
    dtype = types.experts if is_experts else types.matrices
    fits = columns % GGML_QUANT_SIZES[GGMLQuantizationType[dtype]][0] == 0
    return dtype if fits else _INSTEAD


def _tensor(name: str, dtype: str, shape: tuple[int, ...], layer: int | None = None) -> Tensor:
    return Tensor(name, "model.gguf", 0, ggml_bytes(dtype, shape), dtype, shape, "", layer)
