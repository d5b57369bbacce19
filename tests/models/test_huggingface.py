"""Hugging Face directories: what a manifest says of them, and one sentence for each way to be none."""

import json
from contextlib import nullcontext

import numpy as np
import pytest

from kit.checkpoints import needs_torch, save_checkpoint
from kit.tiny_hf import write_safetensors, write_tiny_hf
from potluck.errors import IntegrityError, ModelError
from potluck.models import families, huggingface
from potluck.models.arrays import read_array, to_float32
from potluck.models.files import MOST_TENSORS
from potluck.models.huggingface import span_tensors
from potluck.models.sources import LocalSource, local_source, open_model
from potluck.models.spans import engines_for
from potluck.models.vetting import decode
from potluck.types import Span

INDEX = "model.safetensors.index.json"


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def model(tmp_path):
    return write_tiny_hf(tmp_path / "tiny", "llama", layers=4, dtype="BF16")


def test_the_manifest_says_what_the_model_is(model):
    manifest = open_model(model)
    assert (manifest.format, manifest.architecture, manifest.name) == ("huggingface", "llama", "tiny")
    assert (manifest.layers, manifest.hidden_size, manifest.vocabulary, manifest.context) == (4, 64, 320, 512)
    assert manifest.metadata["config"]["rms_norm_eps"] == 1e-6
    assert manifest.files == {f"model-{shard:05d}-of-00003.safetensors" for shard in (1, 2, 3)}
    assert len(set(manifest.layer_bytes())) == 1
    assert engines_for(manifest) == ("llamacpp", "transformers")
    assert decode(manifest.encode()) == manifest


def test_keys_of_several_parts_and_values_may_have_sizes_of_their_own(model):
    usual = open_model(model).kv_width
    change_json(model / "config.json", qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=96)
    heads = json.loads((model / "config.json").read_text())["num_key_value_heads"]
    assert usual != open_model(model).kv_width == heads * (128 + 64 + 96)


def test_shards_do_not_change_the_digest_but_weights_do(tmp_path):
    three = open_model(write_tiny_hf(tmp_path / "three", shards=3))
    one = open_model(write_tiny_hf(tmp_path / "one", shards=1))
    other = open_model(write_tiny_hf(tmp_path / "other", seed=1))
    assert three.digest == one.digest != other.digest


def test_hashing_is_done_once_for_each_state_of_all_files(model):
    hashed: list[int] = []
    first = open_model(model, hashed.append)
    assert sum(hashed) == sum(tensor.nbytes for tensor in first.tensors)
    hashed.clear()
    assert open_model(model, hashed.append) == first
    assert hashed == []
    change_json(model / "config.json", rms_norm_eps=1e-5)
    assert open_model(model, hashed.append).digest != first.digest
    assert hashed


def test_a_span_needs_its_layers_and_the_ends_at_the_ends(model):
    manifest = open_model(model)

    def outside(span):
        tensors = span_tensors(manifest, span)
        assert {tensor.layer for tensor in tensors} - {None} == set(range(span.first, span.last + 1))
        return {tensor.name for tensor in tensors if tensor.layer is None}

    assert outside(Span(0, 1)) == {"model.embed_tokens.weight", "model.norm.weight"}
    assert outside(Span(1, 2)) == {"model.norm.weight"}
    assert outside(Span(3, 3)) == {"model.norm.weight", "lm_head.weight"}
    assert len(span_tensors(manifest, Span(0, 3))) == len(manifest.tensors)


def test_a_tied_embedding_is_needed_at_both_ends(tmp_path):
    manifest = open_model(write_tiny_hf(tmp_path / "tied", layers=3, tied=True))
    assert {t.name for t in span_tensors(manifest, Span(2, 2)) if t.layer is None} == {
        "model.norm.weight",
        "model.embed_tokens.weight",
    }
    assert [t.name for t in span_tensors(manifest, Span(1, 1)) if t.layer is None] == ["model.norm.weight"]


def test_layers_beyond_the_last_are_left_out(model):
    change_json(model / "config.json", num_hidden_layers=3)
    manifest = open_model(model)
    assert manifest.layers == len(manifest.layer_bytes()) == 3
    assert {tensor.layer for tensor in manifest.tensors} == {0, 1, 2, None}


def test_arrays_come_as_they_are_stored(model):
    manifest, source = open_model(model), local_source(model)
    tensor = next(tensor for tensor in manifest.tensors if tensor.name == "model.layers.1.mlp.up_proj.weight")
    values = read_array(tensor, source)
    assert (values.dtype, values.shape, tensor.dtype) == (np.uint16, (128, 64), "BF16")
    floats = to_float32(values, tensor.dtype)
    assert floats.dtype == np.float32
    assert 0.9 < floats.std() * 8 < 1.1


def test_wrong_bytes_are_refused_by_name(model):
    manifest = open_model(model)
    tensor = next(tensor for tensor in manifest.tensors if tensor.name == "lm_head.weight")
    with (model / tensor.file).open("r+b") as file:
        file.seek(tensor.offset)
        file.write(b"\xff")
    with pytest.raises(IntegrityError, match=r"lm_head\.weight of model-0000\d-of-00003\.safetensors"):
        read_array(tensor, LocalSource(model))


def test_buffers_of_old_checkpoints_are_left_out(tmp_path):
    folder = write_tiny_hf(tmp_path / "neox", "gpt_neox", layers=1)
    old = {
        "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 8, 8), np.bool_),
        "gpt_neox.layers.0.attn.bias": np.ones((1, 1, 8, 8), np.float32),
        "gpt_neox.layers.0.attention.masked_bias": np.full((), -1e9, np.float32),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": np.ones(4, np.float32),
    }
    write_safetensors(folder / "old.safetensors", old)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    change_json(folder / INDEX, weight_map=places | dict.fromkeys(old, "old.safetensors"))
    assert len(open_model(folder).tensors) == len(places)


def test_a_directory_without_config_is_refused(model):
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"tiny/config\.json is missing: give a GGUF file, or the directory"):
        open_model(model)


def test_a_config_that_is_no_json_is_refused(model):
    (model / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tiny/config\.json is not valid JSON"):
        open_model(model)


def test_a_config_without_a_needed_key_is_refused(model):
    change_json(model / "config.json", hidden_size=None)
    with pytest.raises(ModelError, match=r"tiny/config\.json has no hidden_size"):
        open_model(model)


def test_a_directory_without_weights_is_refused(model):
    for file in model.glob("model*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"tiny holds no weights: fetch model\.safetensors\.index\.json or"):
        open_model(model)


def test_a_missing_shard_is_refused_by_name(model):
    (model / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.safetensors is missing, but model\.safetensors"):
        open_model(model)


def test_an_index_that_names_a_tensor_no_file_has_is_refused(model):
    places = json.loads((model / INDEX).read_text())["weight_map"]
    change_json(model / INDEX, weight_map=places | {"ghost.weight": "model-00001-of-00003.safetensors"})
    with pytest.raises(ModelError, match=r"model-00001-of-00003\.safetensors does not hold ghost\.weight, as"):
        open_model(model)


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", 7])
def test_an_index_that_leads_out_of_the_directory_is_refused(model, place):
    change_json(model / INDEX, weight_map={"a": place})
    with pytest.raises(ModelError, match="is not in the same directory"):
        open_model(model)


def test_tensors_of_shards_are_counted_even_if_the_index_does_not_name_them(model, monkeypatch):
    monkeypatch.setattr(huggingface, "MOST_TENSORS", 20)  # of 39
    places = json.loads((model / INDEX).read_text())["weight_map"]
    change_json(model / INDEX, weight_map={places[name]: places[name] for name in places})
    with pytest.raises(ModelError, match="tiny holds more than"):
        open_model(model)


def test_an_index_of_too_many_files_is_refused_before_they_are_looked_for(model):
    change_json(model / INDEX, weight_map={str(number): f"{number}.safetensors" for number in range(1025)})
    with pytest.raises(ModelError, match="names 1025 files, which is more than 1024"):
        open_model(model)


def test_a_directory_with_as_many_tensors_as_there_can_be_is_read_and_one_with_more_is_refused(model):
    for count, outcome in (
        (MOST_TENSORS, nullcontext()),
        (MOST_TENSORS + 1, pytest.raises(ModelError, match="tiny holds more than 98,304 tensors")),
    ):
        names = ["model.norm.weight", *(f"model.layers.{number % 4}.{number}" for number in range(1, count))]
        write_safetensors(model / "model.safetensors", dict.fromkeys(names, np.zeros(1, np.float16)))
        (model / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
        with outcome:
            assert len(open_model(model).tensors) == count


def test_a_whole_file_wins_over_an_index_whose_parts_are_missing(tmp_path):
    """Somebody merged the parts, or left them out of a download, and the index stayed."""
    folder, other = write_tiny_hf(tmp_path / "a", shards=1), write_tiny_hf(tmp_path / "b", shards=3)
    (folder / INDEX).write_bytes((other / INDEX).read_bytes())
    assert open_model(folder).files == {"model.safetensors"}
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00001-of-00003\.safetensors is missing, but model\.safetensors"):
        open_model(folder)
    (other / "model.safetensors").write_bytes(b"")
    assert len(open_model(other).files) == 3


def test_an_index_without_a_map_is_refused(model):
    (model / INDEX).write_text('{"metadata": {}}')
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json has no weight_map"):
        open_model(model)


def test_a_model_that_lacks_a_layer_is_refused(model):
    change_json(model / "config.json", num_hidden_layers=6)
    with pytest.raises(ModelError, match=r"tiny holds no tensors of layer 4, of 6 by its config\.json"):
        open_model(model)


def test_a_truncated_shard_is_refused_by_name(model):
    shard = model / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"model-00003-of-00003\.safetensors is truncated"):
        open_model(model)


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["T5ForConditionalGeneration"], [], None])
def test_an_architecture_that_no_engine_knows_is_refused(model, architectures):
    change_json(model / "config.json", architectures=architectures)
    with pytest.raises(ModelError, match=r"tiny/config\.json names .*, which no engine runs: choose a causal"):
        open_model(model)


def test_any_other_causal_model_is_left_to_the_transformers_engine(model):
    change_json(model / "config.json", architectures=["GemmaForCausalLM"])
    assert engines_for(open_model(model)) == ("transformers",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "relu"}, "the activation relu"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "the rope type dynamic"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "the rope type longrope"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1.0}}, "a rope attention factor"),
        ({"partial_rotary_factor": 0.5}, "a partial rotary embedding"),
    ],
)
def test_what_llama_cpp_cannot_do_is_left_to_the_transformers_engine(model, changes, reason):
    change_json(model / "config.json", **changes)
    manifest = open_model(model)
    assert engines_for(manifest) == ("transformers",)
    with pytest.raises(ModelError, match=rf"tiny/config\.json asks for .*{reason}.*--engine transformers"):
        families.check("tiny/config.json", manifest.metadata["config"], families.FAMILIES["LlamaForCausalLM"])


def test_a_sliding_window_bounds_the_context_of_llama_cpps_families(tmp_path):
    mistral = write_tiny_hf(tmp_path / "mistral", "mistral", sliding_window=128)
    assert open_model(mistral).context == 128
    qwen = write_tiny_hf(tmp_path / "qwen", "qwen2", sliding_window=128, use_sliding_window=False)
    assert open_model(qwen).context == 512


@needs_torch
def test_the_older_checkpoints_are_read_where_there_is_nothing_else(tmp_path):
    folder = write_tiny_hf(tmp_path / "old", shards=1)
    new = open_model(folder)
    state = {tensor.name: read_array(tensor, LocalSource(folder)) for tensor in new.tensors}
    halves = [dict(list(state.items())[half::2]) for half in (0, 1)]
    for number, half in enumerate(halves, 1):
        save_checkpoint(folder / f"pytorch_model-{number:05d}-of-00002.bin", half)
    places = {
        name: f"pytorch_model-{number:05d}-of-00002.bin" for number, half in enumerate(halves, 1) for name in half
    }
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert open_model(folder).files == {"model.safetensors"}
    (folder / "model.safetensors").unlink()
    old = open_model(folder)
    assert old.files == set(places.values())
    assert old.digest == new.digest
