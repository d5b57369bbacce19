"""The architectures of llama.cpp, and how the layers of each can be cut into spans.

To llama.cpp a span file is a whole model, whose layers are numbered from 0. Most architectures compute a layer in the
same way wherever it is. This table says what depends on the place of a layer, or on the number of layers, in the
others. Its rows follow the source of the llama.cpp that the pinned llama-cpp-python carries, and `proved` ones are
checked at every cut by `tests/engine/test_architectures.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

Entries = Mapping[str, tuple[list[str], Any]]
"""GGUF metadata: the value types and the value of each key."""


class Metadata(NamedTuple):
    """The metadata of a whole model. layers: those that are run. vocabulary: the rows of the embedding."""

    architecture: str
    entries: Entries
    layers: int
    vocabulary: int

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture, which is given without its name."""
        return self.entries.get(f"{self.architecture}.{key}", (None, default))[1]


@dataclass(frozen=True)
class Windows:
    """Layers with a sliding window among others that attend to everything.

    every: of so many layers one attends to everything, unless the file says otherwise; 0 if the file has to say it.
    full_first: whether that is the first of them instead of the last.
    optional: whether a model without `attention.sliding_window` has no such layers.
    both: whether every span needs a layer that attends to everything as well.
    chunked: whether a window is the chunk of a position, instead of the positions before it.
    """

    every: int
    full_first: bool = False
    optional: bool = False
    both: bool = False
    chunked: bool = False


class Recurrent(Enum):
    """The layers that have a recurrent state."""

    NONE = "none"
    ALL = "all"
    INTERVAL = "all but one of `full_attention_interval`, or those of `attention.recurrent_layers`"
    NO_HEADS = "those without heads in `attention.head_count_kv`"
    NO_WIDTH = "those without heads and without a `feed_forward_length`"


def _nothing(_metadata: Metadata) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """How one architecture can be cut.

    refusal: why it cannot be cut; then nothing else counts.
    period: spans begin at multiples of it, because llama.cpp numbers the layers to decide what they do.
    windows: the layers with sliding windows, of which every span needs one.
    recurrent: how llama.cpp knows the layers with a recurrent state. Every span needs one of them and one with
        attention, unless all layers have one.
    chunked: whether llama.cpp computes many positions at once in another order than one after the other, so that the
        last bits depend on the batch.
    leading_dense: whether the first layers have no experts, and are counted by `leading_dense_block_count`.
    telling: numbers of layers by which llama.cpp recognises a model and computes it in another way.
    derived: the metadata that llama.cpp would derive from such a number, for a model that leaves them out.
    entry: metadata that change what enters the first layer, with the value that changes nothing; None leaves it out.
    enters_at: the graph node that llama.cpp computes from what enters, where that cannot be switched off. Hidden rows
        take its place.
    leaves_at: the graph node of a layer's output, to which the number of the layer is appended.
    exit: the beginnings of the names of tensors that only the last span needs.
    of_full_layers: tensors outside the layers that llama.cpp has only if some layer attends to everything.
    side_inputs: metadata that are above 0 in models whose layers need more than a row; such a model cannot be cut.
    sections: whether llama.cpp takes hidden rows only if positions have four parts (`rope.dimension_sections`).
    """

    refusal: str = ""
    period: int = 1
    windows: Windows | None = None
    recurrent: Recurrent = Recurrent.NONE
    chunked: bool = False
    leading_dense: bool = False
    telling: frozenset[int] = frozenset()
    derived: Callable[[Metadata], dict[str, Any]] = _nothing
    entry: Mapping[str, Any] = field(default_factory=dict)
    enters_at: str = ""
    leaves_at: str = "l_out"
    exit: tuple[str, ...] = ("output",)
    of_full_layers: tuple[str, ...] = ()
    side_inputs: tuple[str, ...] = ()
    sections: bool = False


def _derived_deepseek2(metadata: Metadata) -> dict[str, Any]:
    """V2-Lite and its relatives have no q_lora_rank; llama.cpp knows them by their number of layers."""
    layers, vocabulary = metadata.layers, metadata.vocabulary
    is_lite = layers in (26, 27) or (layers == 48 and vocabulary == 128256)
    is_glm = layers in (47, 48) and vocabulary == 154880
    softmax, sigmoid = 1, 2
    return {"expert_gating_func": sigmoid if is_glm else softmax} | ({"attention.q_lora_rank": 0} if is_lite else {})


def _derived_minicpm(metadata: Metadata) -> dict[str, Any]:
    return {"residual_scale": 1.4 / math.sqrt(metadata.layers)}


_PLAIN = Architecture()
_DENSE_FIRST = Architecture(leading_dense=True)
_SCALED = Architecture(entry={"embedding_scale": None, "deepstack_mapping": None})

_DELTA_NET = Architecture(recurrent=Recurrent.INTERVAL, chunked=True)

_PLAIN_NAMES = """
    llama qwen2 qwen3 gptneox qwen qwen2moe qwen3moe mistral3 arcee arctic apertus bailingmoe bitnet chatglm codeshell
    dbrx ernie4_5 exaone falcon grovemoe hunyuan-dense hunyuan-moe internlm2 jais jais2 maincoder minimax-m2 nemotron
    olmo olmoe openelm orion pangu-embedded phi2 phi3 phimoe plamo refact seed_oss stablelm starcoder2 xverse
    gpt2 starcoder mpt command-r
"""

_GEMMA4_SIDE_INPUTS = ("embedding_length_per_layer_input", "attention.shared_kv_layers")

_ENCODER = "it is an encoder or a part of another model, and does not write text"
SIDE_INPUTS = "its layers need more than the row that the layer before gives them"
_BY_COUNT = "llama.cpp computes it in a way that depends on the number of all layers"
_NOISE = "it does not write text token by token"
_REFUSED = {
    _ENCODER: """
        bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert gemma-embedding
        llama-embed t5 t5encoder clip wavtokenizer-dec eagle3 dflash gemma4-assistant qwen3tts pockettts chameleon gptj
    """,
    SIDE_INPUTS: """
        gemma3n deepseek4 hy_v4 qwen4exp glm5-next kimi-k3 rwkv7 arwkv7 cogvlm graniteswitch minimax-01 hrm_text
        muse-glimmer rwkv6
    """,
    _BY_COUNT: "baichuan minicpm3",
    _NOISE: "dream llada llada-moe rnd1",
}

TABLE: dict[str, Architecture] = {
    **dict.fromkeys(_PLAIN_NAMES.split(), _PLAIN),
    **dict.fromkeys(["deepseek", "dots1", "bailingmoe2", "ernie4_5-moe"], _DENSE_FIRST),
    **{name: Architecture(refusal) for refusal, names in _REFUSED.items() for name in names.split()},
    "granite": _SCALED,
    "granitemoe": _SCALED,
    "grok": Architecture("llama.cpp has no flash attention for it"),
    "minicpm": Architecture(entry={"embedding_scale": 1.0}, derived=_derived_minicpm),
    "gemma": Architecture(enters_at="inp_scaled"),
    "gemma2": Architecture(enters_at="inp_scaled", windows=Windows(2), telling=frozenset({46})),
    "gemma3": Architecture(windows=Windows(6, optional=True), telling=frozenset({62})),
    "bloom": Architecture(enters_at="inp_norm-0"),
    "gpt-oss": Architecture(windows=Windows(2)),
    "cohere2": Architecture(windows=Windows(4)),
    "olmo2": Architecture(windows=Windows(4, optional=True)),
    "exaone4": Architecture(telling=frozenset({64})),
    "mellum": Architecture(windows=Windows(4, optional=True)),
    "plamo3": Architecture(windows=Windows(8, optional=True)),
    "exaone-moe": Architecture(windows=Windows(4), leading_dense=True),
    "cohere2moe": Architecture(windows=Windows(4, full_first=True), leading_dense=True),
    "laguna": Architecture(windows=Windows(4, full_first=True, optional=True), leading_dense=True),
    "afmoe": Architecture(period=4, windows=Windows(4), leading_dense=True, enters_at="inp_embd_scaled"),
    "llama4": Architecture(period=4, windows=Windows(4, both=True, chunked=True)),
    "smollm3": Architecture(period=4),
    "smallthinker": Architecture(period=4, windows=Windows(4, full_first=True, optional=True), telling=frozenset({4})),
    "glm4moe": Architecture(leading_dense=True, sections=True),
    "deepseek2": Architecture(leading_dense=True, telling=frozenset({26, 27}), derived=_derived_deepseek2),
    "deepseek32": _DENSE_FIRST,
    "mamba": Architecture(recurrent=Recurrent.ALL),
    "mamba2": Architecture(recurrent=Recurrent.ALL),
    "falcon-h1": Architecture(recurrent=Recurrent.ALL),
    "qwen3next": _DELTA_NET,
    "qwen35": _DELTA_NET,
    "qwen35moe": _DELTA_NET,
    "jamba": Architecture(recurrent=Recurrent.NO_HEADS),
    "granitehybrid": Architecture(recurrent=Recurrent.NO_HEADS, entry=_SCALED.entry),
    "plamo2": Architecture(recurrent=Recurrent.NO_HEADS, leaves_at="ffn_residual"),
    "nemotron_h": Architecture(recurrent=Recurrent.NO_WIDTH, leaves_at="nemotron_h_block_out"),
    "nemotron_h_moe": Architecture(recurrent=Recurrent.NO_WIDTH, leaves_at="nemotron_h_block_out"),
    "lfm2": Architecture(recurrent=Recurrent.NO_HEADS, exit=("output", "token_embd_norm")),
    "lfm2moe": Architecture(recurrent=Recurrent.NO_HEADS, exit=("output", "token_embd_norm"), leading_dense=True),
    "qwen2vl": Architecture(entry={"n_deepstack_layers": None}),
    "qwen3vl": Architecture(entry={"n_deepstack_layers": None}),
    "qwen3vlmoe": Architecture(entry={"n_deepstack_layers": None}),
    "glm4": Architecture(),
    "hy_v3": _PLAIN,
    "mistral4": Architecture(leading_dense=True, telling=frozenset({26, 27}), derived=_derived_deepseek2),
    "glm-dsa": _DENSE_FIRST,
    "mimo2": Architecture(windows=Windows(0)),
    "gemma4": Architecture(
        windows=Windows(0),
        telling=frozenset({1}),
        of_full_layers=("rope_freqs.weight",),
        side_inputs=_GEMMA4_SIDE_INPUTS,
    ),
}
