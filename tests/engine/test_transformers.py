"""The transformers engine against the unsplit model: tiny random models of each family, as transformers saves them."""

# ruff: noqa: E402 (without PyTorch the imports must not be reached)

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from potluck.engine.base import Segment
from potluck.engine.transformers import TransformersEngine, needed_tensors
from potluck.engine.weights import RawWeights
from potluck.errors import CapacityError, EngineError, SpanError
from potluck.models.files import LocalSource
from potluck.models.huggingface import read_manifest, span_tensors
from potluck.models.sources import open_model
from potluck.models.spanfile import write_span_file
from potluck.models.spans import plan_raw_span
from potluck.types import Capacity, Span

LAYERS = 4
VOCABULARY = 131
CAPACITY = Capacity(sessions=4, positions=100, rows=32)
TOLERANCE = 1e-4

COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLD: dict[str, Any] = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "vocab_size": VOCABULARY}
GROUPED = COMMON | {"num_key_value_heads": 2}
POSITIONS = {"wpe", "embed_positions"}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
GEMMA = GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 5, "layer_types": WINDOWS}

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt_neox": {"model_type": "gpt_neox", "use_parallel_residual": True} | COMMON,
    "gpt_neox_serial": {"model_type": "gpt_neox", "use_parallel_residual": False} | COMMON,
    "llama": {"model_type": "llama"} | GROUPED,
    "mistral": {"model_type": "mistral", "sliding_window": 5} | GROUPED,
    # Its last two layers alone have windows: what a layer does depends on its number in the whole model.
    "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
    | {"tie_word_embeddings": True}
    | GROUPED,
    "qwen3": {"model_type": "qwen3", "head_dim": 16} | GROUPED,
    "gemma3": {"model_type": "gemma3_text"} | GEMMA,
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4} | GROUPED,
    # Their attention is more than the fused one computes: caps on scores, sinks.
    "gemma2": {"model_type": "gemma2", "attn_logit_softcapping": 5.0} | GEMMA,
    "gpt_oss": {"model_type": "gpt_oss", "num_local_experts": 4, "head_dim": 16, "sliding_window": 5} | GROUPED,
    # These add positions to the embeddings, before the first layer. The second also makes them wider.
    "gpt2": {"model_type": "gpt2"} | OLD,
    "opt": {"model_type": "opt", "word_embed_proj_dim": 16, "ffn_dim": 48, "do_layer_norm_before": False} | COMMON,
    "gpt_bigcode": {"model_type": "gpt_bigcode", "n_positions": 320, "multi_query": True} | OLD,
}

CUTS = [
    [Span(0, 0), Span(1, 3)],
    [Span(0, 1), Span(2, 3)],
    [Span(0, 2), Span(3, 3)],
    [Span(layer, layer) for layer in range(LAYERS)],
]


class Shards(Mapping[str, Any]):
    """The tensors in a directory's safetensors files, each read when it is asked for."""

    def __init__(self, directory: Path, only: Sequence[str] | None = None) -> None:
        files = [safe_open(file, framework="pt") for file in sorted(directory.glob("*.safetensors"))]
        self.shards = len(files)
        held = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        self._files = held if only is None else {name: held[name] for name in only}
        self.read: list[str] = []

    def __getitem__(self, name: str) -> Any:
        self.read.append(name)
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@dataclass
class Checkpoint:
    """A saved model. `logits` are the unsplit model's, for a whole sequence of tokens `[n]`: `[n, V]`."""

    directory: Path
    model: Any

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.directory / "config.json").read_text())

    def engine(self, span: Span, **options: Any) -> TransformersEngine:
        """With the tensors that a node with this span is sent, and no others."""
        arguments = {"span": span, "capacity": CAPACITY, "threads": 1, "device": torch.device("cpu")} | options
        manifest = read_manifest(LocalSource(self.directory), "tiny")
        return TransformersEngine(
            self.config, Shards(self.directory, [tensor.name for tensor in span_tensors(manifest, span)]), **arguments
        )

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()


def make_checkpoint(config: dict[str, Any], directory: Path) -> Checkpoint:
    """Weights large enough that a row seen or missed wrongly shows, and norms that are not all alike."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[config["model_type"]].from_dict(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 0.1))
    model.save_pretrained(directory, max_shard_size="20KB")
    return Checkpoint(directory, AutoModelForCausalLM.from_pretrained(directory).eval())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(FAMILIES["llama"], tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(FAMILIES["qwen2"], tmp_path_factory.mktemp("qwen2"))


@pytest.fixture
def engine(llama: Checkpoint) -> TransformersEngine:
    return llama.engine(Span(0, 3))


def tokens(session: int, count: int) -> np.ndarray:
    return np.random.default_rng(session).integers(3, VOCABULARY, count, dtype=np.int32)


def step(chain: list[TransformersEngine], batch: list[tuple[int, np.ndarray]]) -> list[np.ndarray]:
    """Append each session's tokens; returns the logits of all rows `[n, V]` for each."""
    data = [part for _, part in batch]
    for engine in chain:
        segments = [
            Segment(session, engine.length(session), rows, engine.span.last, len(rows))
            for (session, _), rows in zip(batch, data, strict=True)
        ]
        data = engine.forward(segments)
    return data


RAGGED = [{0: 9, 1: 3}, {0: 1, 1: 5, 2: 12}, {2: 1, 1: 1, 0: 1}, {3: 1, 2: 4, 0: 1}, {0: 1, 3: 1, 1: 1, 2: 1}]
"""Rows of each session in each of five passes: prefill, decode and both at once, in changing order."""


def test_loading_is_told_layer_by_layer(llama: Checkpoint) -> None:
    told: list[float] = []
    llama.engine(Span(1, 3), progress=told.append).unload()
    assert told == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "+".join(map(str, cut)))
def test_split_model_is_the_model(checkpoint: Checkpoint, cut: list[Span]) -> None:
    chain = [checkpoint.engine(span) for span in cut]
    sequences = {session: tokens(session, 30) for session in range(4)}
    expected = {session: checkpoint.logits(sequence) for session, sequence in sequences.items()}
    done = dict.fromkeys(sequences, 0)
    worst = 0.0
    for counts in RAGGED:
        parts = {session: slice(done[session], done[session] + count) for session, count in counts.items()}
        outputs = step(chain, [(session, sequences[session][part]) for session, part in parts.items()])
        for (session, part), logits in zip(parts.items(), outputs, strict=True):
            worst = max(worst, float(np.abs(logits - expected[session][part]).max()))
            done[session] = part.stop
    assert worst < TOLERANCE
    assert [chain[-1].length(session) for session in range(4)] == [13, 10, 18, 2]


def test_the_checkpoints_have_several_shards(checkpoint: Checkpoint) -> None:
    assert Shards(checkpoint.directory).shards > 2


def test_a_pass_may_end_after_any_layer(checkpoint: Checkpoint) -> None:
    whole, sequence = checkpoint.engine(Span(0, 3)), tokens(0, 12)
    for last in range(LAYERS - 1):
        [early] = whole.forward([Segment(last, 0, sequence, last)])
        [exact] = checkpoint.engine(Span(0, last)).forward([Segment(0, 0, sequence, last)])
        np.testing.assert_array_equal(early, exact)
        rest = checkpoint.engine(Span(last + 1, 3))
        [logits] = rest.forward([Segment(0, 0, early, 3, wanted=12)])
        np.testing.assert_allclose(logits, checkpoint.logits(sequence), atol=TOLERANCE, rtol=0)


def test_a_session_cannot_go_deeper_than_before(engine: TransformersEngine) -> None:
    engine.forward([Segment(0, 0, tokens(0, 5), 1)])
    with pytest.raises(EngineError, match="up to layer 1 cannot go on up to layer 3"):
        engine.forward([Segment(0, 5, tokens(0, 1), 3)])
    assert engine.length(0) == 5


def test_rows_see_neither_later_rows_nor_other_sessions(checkpoint: Checkpoint) -> None:
    one, other = checkpoint.engine(Span(0, 3)), checkpoint.engine(Span(0, 3))
    sequence, changed = tokens(0, 12), tokens(0, 12)
    changed[7:] = (changed[7:] + 1) % VOCABULARY
    [first, _] = step([one], [(0, sequence), (1, tokens(1, 9))])
    [second, _] = step([other], [(0, changed), (1, tokens(2, 9))])
    np.testing.assert_allclose(first[:7], second[:7], atol=1e-5, rtol=0)
    assert (np.abs(first[7:] - second[7:]).max(axis=1) > 1e-3).all()


def test_only_wanted_rows_have_logits(llama: Checkpoint, engine: TransformersEngine) -> None:
    sequence = tokens(0, 8)
    batch = [Segment(0, 0, sequence, 3, wanted=2), Segment(1, 0, sequence, 3), Segment(2, 0, sequence[:1], 3, wanted=1)]
    two, none, one = engine.forward(batch)
    assert (two.shape, none.shape, one.shape) == ((2, VOCABULARY), (0, VOCABULARY), (1, VOCABULARY))
    assert two.dtype == np.float32
    np.testing.assert_allclose(two, llama.logits(sequence)[-2:], atol=TOLERANCE, rtol=0)
    [nothing] = engine.forward([Segment(1, 8, sequence[:1], 3)])
    assert nothing.shape == (0, VOCABULARY)


def test_truncated_sessions_go_on_from_there(checkpoint: Checkpoint) -> None:
    engine, old, new = checkpoint.engine(Span(0, 3)), tokens(0, 12), tokens(1, 12)
    step([engine], [(0, old), (1, new)])
    engine.truncate(0, 20)
    assert engine.length(0) == 12
    engine.truncate(0, 4)
    assert engine.length(0) == 4
    [logits] = step([engine], [(0, new)])
    np.testing.assert_allclose(logits, checkpoint.logits(np.append(old[:4], new))[4:], atol=TOLERANCE, rtol=0)
    engine.truncate(0, 0)
    assert engine.length(0) == 0
    [logits] = step([engine], [(0, old)])
    np.testing.assert_allclose(logits, checkpoint.logits(old), atol=TOLERANCE, rtol=0)


def test_long_sessions_outgrow_their_buffers(checkpoint: Checkpoint) -> None:
    sequence = tokens(0, 300)
    engine = checkpoint.engine(Span(0, 3), capacity=Capacity(sessions=1, positions=300, rows=100))
    outputs = [step([engine], [(0, part)])[0] for part in np.split(sequence, [100, 127, 128, 129, 200])]
    np.testing.assert_allclose(np.concatenate(outputs), checkpoint.logits(sequence), atol=TOLERANCE, rtol=0)


def test_closing_makes_room(engine: TransformersEngine) -> None:
    for session in range(4):
        step([engine], [(session, tokens(session, 25))])
    engine.close(2)
    engine.close(99)
    assert (engine.length(2), engine.length(3)) == (0, 25)
    step([engine], [(7, tokens(7, 25))])
    assert engine.length(7) == 25


def test_a_full_cache_changes_nothing(llama: Checkpoint, engine: TransformersEngine) -> None:
    sequence = tokens(0, 30)
    for start in (0, 10, 20):
        step([engine], [(session, tokens(session, 30)[start : start + 10]) for session in range(3)])
    with pytest.raises(CapacityError, match="100 positions is full"):
        step([engine], [(0, sequence[:1]), (3, tokens(3, 10))])
    assert [engine.length(session) for session in range(4)] == [30, 30, 30, 0]
    [logits] = step([engine], [(0, sequence[:10])])
    np.testing.assert_allclose(logits, llama.logits(np.append(sequence, sequence[:10]))[30:], atol=TOLERANCE, rtol=0)


def test_too_many_sessions_change_nothing(engine: TransformersEngine) -> None:
    step([engine], [(session, tokens(session, 2)) for session in range(3)])
    with pytest.raises(CapacityError, match="All 4 sessions"):
        step([engine], [(session, tokens(session, 2)) for session in (0, 3, 4)])
    assert [engine.length(session) for session in range(5)] == [2, 2, 2, 0, 0]


def test_a_failed_pass_changes_nothing(llama: Checkpoint, engine: TransformersEngine) -> None:
    sequence = tokens(0, 9)
    step([engine], [(0, sequence[:6])])

    def fail(module: object, _args: object) -> None:
        if type(module).__name__ == "LlamaMLP" and next(countdown) == 0:
            raise RuntimeError("out of memory")

    countdown = iter([2, 1, 0])
    hook = torch.nn.modules.module.register_module_forward_pre_hook(fail)
    with hook, pytest.raises(EngineError, match="cannot run layers 0-3: out of memory"):
        step([engine], [(1, tokens(1, 3)), (0, tokens(2, 5))])
    assert (engine.length(0), engine.length(1)) == (6, 0)
    [logits] = step([engine], [(0, sequence[6:])])
    np.testing.assert_allclose(logits, llama.logits(sequence)[6:], atol=TOLERANCE, rtol=0)


BAD_BATCHES = {
    "A batch of 1 to 32 rows was expected, not 0": [],
    "A batch of 1 to 32 rows was expected, not 4": [Segment(0, 0, tokens(0, 4), 3), Segment(1, 0, tokens(0, 0), 3)],
    "A batch of 1 to 32 rows was expected, not 33": [Segment(0, 0, tokens(0, 33), 3)],
    "only one segment of a session": [Segment(0, 0, tokens(0, 2), 3), Segment(0, 0, tokens(0, 2), 3)],
    "cannot stop after layer 4": [Segment(0, 0, tokens(0, 2), 4)],
    "cannot stop after layer 2 in this batch": [Segment(0, 0, tokens(0, 2), 3), Segment(1, 0, tokens(0, 2), 2)],
    "Position 1 does not follow the 0 held": [Segment(0, 1, tokens(0, 2), 3)],
    "Logits of 3 out of 2 rows": [Segment(0, 0, tokens(0, 2), 3, wanted=3)],
    "outside the vocabulary of 131": [Segment(0, 0, np.array([5, 131], np.int32), 3)],
}


@pytest.mark.parametrize("sentence", BAD_BATCHES)
def test_bad_batches_are_refused(engine: TransformersEngine, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        engine.forward(BAD_BATCHES[sentence])
    assert engine.length(0) == 0


def test_hidden_rows_of_another_width_are_refused(llama: Checkpoint) -> None:
    with pytest.raises(EngineError, match="Hidden rows of 32 values"):
        llama.engine(Span(1, 1)).forward([Segment(0, 0, np.zeros((2, 31), np.float32), 1)])


def test_a_span_reads_only_what_it_needs(checkpoint: Checkpoint) -> None:
    """Each layer's tensors once, the embedding and the head only at their ends."""
    names = list(Shards(checkpoint.directory))
    needs = {span: needed_tensors(checkpoint.config, names, span) for span in CUTS[-1]}
    for span, needed in needs.items():
        weights = Shards(checkpoint.directory)
        arguments = {"span": span, "capacity": CAPACITY, "threads": 1, "device": torch.device("cpu")}
        TransformersEngine(checkpoint.config, weights, **arguments)
        assert sorted(weights.read) == sorted(needed)
    shared = set.intersection(*map(set, needs.values()))
    assert {name for needed in needs.values() for name in needed} == set(names)
    weights = Shards(checkpoint.directory)
    assert all(weights[name].numel() < VOCABULARY * 32 or POSITIONS & {*name.split(".")} for name in shared)
    own = [set(needed) - shared for needed in needs.values()]
    ends = own[0] & own[3]
    assert own[1].isdisjoint(own[2])
    assert len(ends) == (1 if checkpoint.config.get("tie_word_embeddings") else 0)


def test_the_text_part_of_a_model_that_sees_is_a_model(tmp_path: Path) -> None:
    """As transformers saves it, through the files that nodes make, against the whole model given text alone."""
    seen = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = seen | {"image_size": 28, "patch_size": 14, "model_type": "siglip_vision_model"}
    config = CONFIG_MAPPING["gemma3"](text_config=GEMMA, vision_config=vision, mm_tokens_per_image=4)
    checkpoint = make_checkpoint(config.to_dict(), tmp_path)
    manifest, sequence = open_model(tmp_path), tokens(0, 12)
    assert manifest.architecture == "gemma3_text"
    chain = []
    for span in CUTS[1]:
        path = tmp_path / f"{span}.gguf"
        write_span_file(path, *plan_raw_span(manifest, span), LocalSource(tmp_path), lambda _: None)
        arguments = {"span": span, "capacity": CAPACITY, "threads": 1, "device": torch.device("cpu")}
        chain.append(TransformersEngine(manifest.metadata["config"], RawWeights(path), **arguments))
    [logits] = step(chain, [(0, sequence)])
    np.testing.assert_allclose(logits, checkpoint.logits(sequence), atol=TOLERANCE, rtol=0)


def test_a_tied_head_is_the_embedding(tied: Checkpoint) -> None:
    names = list(Shards(tied.directory))
    assert "lm_head.weight" not in names
    assert "model.embed_tokens.weight" in needed_tensors(tied.config, names, Span(3, 3))
    renamed = ["lm_head.weight" if name == "model.embed_tokens.weight" else name for name in names]
    assert "lm_head.weight" in needed_tensors(tied.config, renamed, Span(0, 0))


def test_the_dtype_is_the_checkpoints(llama: Checkpoint, tmp_path: Path) -> None:
    llama.model.to(torch.bfloat16).save_pretrained(tmp_path)
    llama.model.to(torch.float32)
    half, sequence = Checkpoint(tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path).eval()), tokens(0, 8)
    assert half.config["dtype"] == "bfloat16"
    with torch.inference_mode():
        expected = half.model(torch.from_numpy(sequence.astype(np.int64))[None]).logits[0].float().numpy()
    [logits] = step([half.engine(Span(0, 1)), half.engine(Span(2, 3))], [(0, sequence)])
    np.testing.assert_allclose(logits, expected, atol=0.1, rtol=0)
    assert np.array_equal(logits, torch.from_numpy(logits).bfloat16().float().numpy())


BAD_MODELS: dict[str, dict[str, Any]] = {
    "knows no model of the type 'nonsense'": {"model_type": "nonsense"},
    "knows no model of the type None": {"model_type": None},
    "has no causal language model of the type 'vit'": {"model_type": "vit"},
    "MambaForCausalLM cannot be split: its layers do not use the attention interface": {"model_type": "mamba"},
    "StableLmForCausalLM cannot be split: its layers do not use": {"model_type": "stablelm"},
    "from its config: ": {"hidden_act": "nonsense"},
    "runs no pre-quantized weights": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "the shape \\(32, 48\\) where \\(32, 64\\) was expected": {"intermediate_size": 64},
    "lack the tensor model.layers.4": {"num_hidden_layers": 5},
}


@pytest.mark.parametrize("sentence", BAD_MODELS)
def test_models_that_cannot_run_are_refused(llama: Checkpoint, sentence: str) -> None:
    config = llama.config | BAD_MODELS[sentence]
    last = config["num_hidden_layers"] - 1
    with pytest.raises(EngineError, match=sentence):
        TransformersEngine(config, Shards(llama.directory), span=Span(last, last), capacity=CAPACITY, threads=1)


def test_layers_that_keep_another_state_are_refused(tmp_path: Path) -> None:
    """Half of this family's layers have linear attention, whose state no cache of keys and values holds."""
    checkpoint = make_checkpoint(GROUPED | {"model_type": "minimax", "num_local_experts": 4}, tmp_path)
    engine = TransformersEngine(
        checkpoint.config, Shards(checkpoint.directory), span=Span(0, 3), capacity=CAPACITY, threads=1
    )
    with pytest.raises(EngineError, match="not all its layers keep keys and values"):
        engine.forward([Segment(0, 0, tokens(0, 4), 3)])


@pytest.mark.parametrize(
    ("span", "lacking"), [(Span(0, 0), "model.embed_tokens.weight"), (Span(3, 3), "lm_head.weight")]
)
def test_a_missing_tensor_is_named(llama: Checkpoint, span: Span, lacking: str) -> None:
    weights = {name: tensor for name, tensor in Shards(llama.directory).items() if name != lacking}
    with pytest.raises(EngineError, match=f"lack the tensor {lacking}"):
        TransformersEngine(llama.config, weights, span=span, capacity=CAPACITY, threads=1)


def test_a_span_outside_the_model_is_refused(llama: Checkpoint) -> None:
    with pytest.raises(SpanError, match="its layers are 0-3"):
        llama.engine(Span(2, 4))


def test_threads_are_set_for_pytorch(engine: TransformersEngine) -> None:
    engine.use_cores((0, 1))
    assert torch.get_num_threads() == 2
    engine.use_cores((0,))
    assert torch.get_num_threads() == 1


def test_unloading_frees_the_model(llama: Checkpoint) -> None:
    engine, modules = llama.engine(Span(1, 2)), weakref.WeakSet[Any]()
    with torch.nn.modules.module.register_module_forward_pre_hook(lambda module, _args: modules.add(module)):
        engine.forward([Segment(0, 0, np.zeros((2, 32), np.float32), 2)])
    assert len(modules) > 10
    engine.unload()
    assert len(modules) == 0
    assert engine.length(0) == 0


@pytest.mark.parametrize(("quantize", "error"), [("int8", 0.05), ("int4", 0.5)])
def test_quantized_layers_stay_near(llama: Checkpoint, quantize: str, error: float) -> None:
    """The relative error of the logits, over all of them, is that of the weights: 1/127 or 1/7 of a row's largest."""
    chain = [llama.engine(span, quantize=quantize) for span in CUTS[1]]
    [logits] = step(chain, [(0, tokens(0, 12))])
    expected = llama.logits(tokens(0, 12))
    relative = float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))
    assert 0 < relative < error


def test_quantizing_without_torchao_says_what_to_do(llama: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(EngineError, match="pip install torchao"):
        llama.engine(Span(1, 1), quantize="int8")
