"""Hugging Face tensors as llama.cpp wants them: names, order of rows, types, and going on after an interruption."""

import json

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from kit.tiny_hf import write_safetensors, write_tiny_hf
from potluck.errors import ModelError, SpanError
from potluck.models.arrays import read_array, to_float32
from potluck.models.convert import QUANTIZE
from potluck.models.rope import rope_factors
from potluck.models.sources import LocalSource, open_model
from potluck.models.spanfile import download_size, write_span_file
from potluck.models.spans import plan_span, span_file_name
from potluck.types import Span


def no_progress(_nbytes):
    pass


def convert(model, span, quantize="f16", out=None):
    header, pieces = plan_span(open_model(model), span, quantize)
    out = out or model.parent / f"{span}-{quantize}.gguf"
    write_span_file(out, header, pieces, LocalSource(model), no_progress)
    return GGUFReader(out)


def values(reader, name):
    tensor = next(tensor for tensor in reader.tensors if tensor.name == name)
    return dequantize(tensor.data, tensor.tensor_type)


def types(reader):
    return {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}


def original(model, name):
    tensor = next(tensor for tensor in open_model(model).tensors if tensor.name == name)
    return to_float32(read_array(tensor, LocalSource(model)), tensor.dtype)


def test_query_key_value_of_gpt_neox_are_taken_apart(tmp_path):
    model = write_tiny_hf(tmp_path / "neox", "gpt_neox", heads=4)
    span = convert(model, Span(1, 2), "bf16")
    fused = original(model, "gpt_neox.layers.2.attention.query_key_value.bias")
    ours = values(span, "blk.1.attn_qkv.bias")
    for part in range(3):
        for head in range(4):
            theirs = fused[(3 * head + part) * 16 : (3 * head + part + 1) * 16]
            assert np.array_equal(ours[part * 64 + head * 16 : part * 64 + (head + 1) * 16], theirs)
    weight = original(model, "gpt_neox.layers.2.attention.query_key_value.weight")
    assert np.allclose(values(span, "blk.1.attn_qkv.weight")[64 + 16], weight[16 + 48], atol=0.01)


def test_rows_of_llama_that_rotate_together_become_neighbours(tmp_path):
    model = write_tiny_hf(tmp_path / "llama", "llama", heads=2, kv_heads=1, dtype="F16")
    span = convert(model, Span(1, 1))
    for name, heads in (("q", 2), ("k", 1)):
        theirs = original(model, f"model.layers.1.self_attn.{name}_proj.weight")
        ours = values(span, f"blk.0.attn_{name}.weight")
        for head in range(heads):
            for row in range(16):
                assert np.array_equal(ours[32 * head + 2 * row], theirs[32 * head + row])
                assert np.array_equal(ours[32 * head + 2 * row + 1], theirs[32 * head + row + 16])
    same = original(model, "model.layers.1.self_attn.v_proj.weight")
    assert np.array_equal(values(span, "blk.0.attn_v.weight"), same)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_rows_of_qwen_stay_where_they_are(tmp_path, family):
    model = write_tiny_hf(tmp_path / family, family, dtype="F16")
    theirs = original(model, "model.layers.1.self_attn.q_proj.weight")
    assert np.array_equal(values(convert(model, Span(1, 1)), "blk.0.attn_q.weight"), theirs)


@pytest.mark.parametrize("quantize", QUANTIZE)
def test_matrices_are_quantized_and_vectors_are_not(tmp_path, quantize):
    model = write_tiny_hf(tmp_path / "llama", "llama", dtype="BF16")
    span = types(convert(model, Span(3, 3), quantize))
    assert span["blk.0.ffn_down.weight"] == quantize.upper()
    assert span["blk.0.attn_norm.weight"] == span["output_norm.weight"] == "F32"
    assert span["output.weight"] == ("Q8_0" if quantize == "q4_0" else quantize.upper())
    theirs = original(model, "model.layers.3.mlp.down_proj.weight")
    error = np.abs(values(convert(model, Span(3, 3), quantize), "blk.0.ffn_down.weight") - theirs).max()
    assert error <= {"q4_0": 0.06, "q8_0": 0.003, "f16": 1e-7, "bf16": 0}[quantize]


def test_rows_that_are_no_whole_number_of_blocks_become_f16(tmp_path):
    model = write_tiny_hf(tmp_path / "llama", "llama", feed_forward=72)
    span = types(convert(model, Span(1, 1), "q8_0"))
    assert span["blk.0.ffn_down.weight"] == "F16"
    assert span["blk.0.ffn_up.weight"] == "Q8_0"


def test_values_beyond_f16_are_refused_by_name(tmp_path):
    model = write_tiny_hf(tmp_path / "llama", "llama", shards=1)
    tensor = next(tensor for tensor in open_model(model).tensors if tensor.name == "model.layers.1.mlp.up_proj.weight")
    with (model / tensor.file).open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.float32(1e6).tobytes())
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.weight has values beyond the range of f16: choose bf16"):
        convert(model, Span(1, 1))
    assert values(convert(model, Span(1, 1), "bf16"), "blk.0.ffn_up.weight")[0, 0] == pytest.approx(1e6, rel=0.01)


def test_a_middle_span_has_stubs_and_the_ends_have_their_tables(tmp_path):
    model = write_tiny_hf(tmp_path / "neox", "gpt_neox", dtype="F16")
    first, middle, last = (convert(model, span) for span in (Span(0, 0), Span(1, 2), Span(3, 3)))
    assert np.array_equal(values(first, "token_embd.weight"), original(model, "gpt_neox.embed_in.weight"))
    assert np.array_equal(values(last, "output.weight"), original(model, "embed_out.weight"))
    stubs = {tensor.name: list(tensor.shape) for tensor in middle.tensors if not tensor.name.startswith("blk.")}
    assert stubs == {
        "token_embd.weight": [64, 2],
        "output.weight": [64, 2],
        "output_norm.weight": [64],
        "output_norm.bias": [64],
    }
    assert middle.fields["gptneox.block_count"].contents() == 2
    assert middle.fields["gptneox.rope.dimension_count"].contents() == 8


def test_a_tied_head_of_gpt_neox_is_written_out(tmp_path):
    model = write_tiny_hf(tmp_path / "neox", "gpt_neox", tied=True, dtype="F16")
    embedding = original(model, "gpt_neox.embed_in.weight")
    assert np.array_equal(values(convert(model, Span(3, 3)), "output.weight"), embedding)


def test_a_tied_head_of_llama_is_the_embedding_in_8_bits_at_least(tmp_path):
    last = convert(write_tiny_hf(tmp_path / "llama", "llama", tied=True), Span(3, 3), "q4_0")
    assert types(last)["token_embd.weight"] == "Q8_0"
    assert "output.weight" not in types(last)


def test_llama_3_rope_factors_keep_short_waves_and_stretch_long_ones(tmp_path):
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    model = write_tiny_hf(tmp_path / "llama", "llama", rope_theta=10000.0, rope_scaling=scaling)
    config = json.loads((model / "config.json").read_text())
    factors = rope_factors("config.json", config, 32)
    assert factors is not None
    assert factors.shape == (16,)
    assert factors[0] == 1
    assert factors[-1] == 8
    assert (np.diff(factors) >= 0).all()
    assert ((factors > 1) & (factors < 8)).any()
    for span in (Span(0, 0), Span(1, 2)):
        assert np.array_equal(values(convert(model, span), "rope_freqs.weight"), factors)


def save_model(folder, config, tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def test_norms_of_gemma_are_shifted_in_float32_from_bfloat16(tmp_path):
    shapes = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (64, 64), "self_attn.v_proj": (64, 64),
        "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96),
        "input_layernorm": (64,), "post_attention_layernorm": (64,), "pre_feedforward_layernorm": (64,),
        "post_feedforward_layernorm": (64,),
    }  # fmt: skip
    tensors = {f"model.layers.0.{name}.weight": np.zeros(shape, np.uint16) for name, shape in shapes.items()}
    quarter = np.full(64, 0x3E80, np.uint16)  # 0.25
    tensors |= {"model.embed_tokens.weight": np.zeros((100, 64), np.uint16), "model.norm.weight": quarter}
    config = {
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 32,
        "vocab_size": 100, "intermediate_size": 96, "max_position_embeddings": 64, "sliding_window": 16,
        "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
    }  # fmt: skip
    reader = convert(save_model(tmp_path / "gemma", config, tensors), Span(0, 0))
    assert (values(reader, "output_norm.weight") == 1.25).all()
    assert (values(reader, "blk.0.attn_norm.weight") == 1).all()
    assert (values(reader, "token_embd.weight") == 0).all()


EXPERTS = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 100, "intermediate_size": 96,
    "moe_intermediate_size": 32, "num_experts": 3, "num_experts_per_tok": 2, "norm_topk_prob": True,
    "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip


def with_experts(folder, experts, **config):
    shapes = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64), "mlp.gate": (3, 64), "input_layernorm": (64,), "post_attention_layernorm": (64,),
        "self_attn.q_norm": (32,), "self_attn.k_norm": (32,),
    }  # fmt: skip
    tensors = {f"model.layers.0.{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    for number, value in experts.items():
        for name, shape in {"gate_proj": (32, 64), "up_proj": (32, 64), "down_proj": (64, 32)}.items():
            tensors[f"model.layers.0.mlp.experts.{number}.{name}.weight"] = np.full(shape, value, np.float32)
    tensors |= {"model.embed_tokens.weight": np.ones((100, 64), np.float32), "model.norm.weight": np.ones(64, "f4")}
    return save_model(folder, EXPERTS | config, tensors)


def test_experts_become_one_tensor_in_the_order_of_their_numbers(tmp_path):
    reader = convert(with_experts(tmp_path / "a", {2: 3, 0: 1, 1: 2}), Span(0, 0))
    up = values(reader, "blk.0.ffn_up_exps.weight")
    assert up.shape == (3, 32, 64)
    assert up[:, 0, 0].tolist() == [1, 2, 3]
    assert types(reader)["blk.0.ffn_gate_inp.weight"] == "F32"


@pytest.mark.parametrize("experts", [{0: 1, 2: 1}, {0: 1, 1: 1}, {0: 1, 1: 1, 2: 1, 3: 1}])
def test_experts_that_config_json_does_not_count_are_refused(tmp_path, experts):
    with pytest.raises(ModelError, match=r"lacks part [12] of the tensor|has parts of .* that do not fit"):
        plan_span(open_model(with_experts(tmp_path / "moe", experts)), Span(0, 0))


def test_a_missing_tensor_is_named(tmp_path):
    model = write_tiny_hf(tmp_path / "llama", "llama")
    index = model / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    del places["weight_map"]["model.layers.2.mlp.up_proj.weight"]
    index.write_text(json.dumps(places))
    with pytest.raises(ModelError, match=r"llama lacks the tensor that llama\.cpp calls blk\.2\.ffn_up\.weight"):
        plan_span(open_model(model), Span(0, 0))


def test_a_config_that_does_not_fit_the_weights_is_refused(tmp_path):
    model = write_tiny_hf(tmp_path / "llama", "llama")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 999}))
    with pytest.raises(
        ModelError, match=r"llama/config\.json says 999 tokens, but model\.embed_tokens\.weight has 320 rows"
    ):
        plan_span(open_model(model), Span(0, 0))
    (model / "config.json").write_text(json.dumps(config | {"num_attention_heads": 7}))
    with pytest.raises(ModelError, match=r"q_proj\.weight in model-0000\d-of-00003\.safetensors has 64 rows, which do"):
        plan_span(open_model(model), Span(0, 0))


def test_a_family_that_llama_cpp_does_not_run_is_sent_to_transformers(tmp_path):
    model = write_tiny_hf(tmp_path / "gemma", "llama", architectures=["GemmaForCausalLM"])
    with pytest.raises(ModelError, match=r"gemma/config\.json names GemmaForCausalLM, which the llama\.cpp engine"):
        plan_span(open_model(model), Span(0, 0))


def test_a_span_outside_the_model_is_refused(tmp_path):
    with pytest.raises(SpanError, match="its layers are 0-3"):
        plan_span(open_model(write_tiny_hf(tmp_path / "llama")), Span(2, 4))


def test_span_files_of_different_models_or_types_have_different_names(tmp_path):
    one, other = open_model(write_tiny_hf(tmp_path / "one")), open_model(write_tiny_hf(tmp_path / "two", seed=1))
    names = {span_file_name(one, Span(0, 1), quantize) for quantize in QUANTIZE}
    names |= {span_file_name(other, Span(0, 1)), span_file_name(one, Span(0, 2))}
    assert len(names) == len(QUANTIZE) + 2


class StoppingSource(LocalSource):
    """Counts what it gives; is interrupted when asked for more than `budget` bytes."""

    budget = 1 << 40
    given = 0

    def stream(self, file, offset, nbytes):
        if nbytes > self.budget:
            raise KeyboardInterrupt
        self.budget -= nbytes
        self.given += nbytes
        return super().stream(file, offset, nbytes)


def test_finished_conversions_survive_an_interruption(tmp_path):
    model = write_tiny_hf(tmp_path / "llama", "llama")
    header, pieces = plan_span(open_model(model), Span(1, 2))
    source, out = StoppingSource(model), tmp_path / "span.gguf"
    source.budget = download_size(pieces) // 2
    with pytest.raises(KeyboardInterrupt):
        write_span_file(out, header, pieces, source, no_progress)
    assert not out.exists()
    assert source.given > download_size(pieces) // 3
    source.budget = 1 << 40
    seen: list[int] = []
    write_span_file(out, header, pieces, source, seen.append)
    assert source.given == download_size(pieces) == sum(seen)
    assert out.read_bytes() == convert_bytes(model, Span(1, 2))
    assert sorted(file.name for file in tmp_path.glob("span*")) == ["span.gguf"]


def convert_bytes(model, span):
    out = model.parent / "fresh.gguf"
    convert(model, span, "q8_0", out)
    return out.read_bytes()


def test_a_finished_conversion_that_was_damaged_is_made_again(tmp_path):
    model = write_tiny_hf(tmp_path / "llama", "llama")
    header, pieces = plan_span(open_model(model), Span(1, 2))
    source, out = StoppingSource(model), tmp_path / "span.gguf"
    source.budget = download_size(pieces) - 1
    with pytest.raises(KeyboardInterrupt):
        write_span_file(out, header, pieces, source, no_progress)
    part = tmp_path / "span.gguf.part"
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    source.budget, source.given = 1 << 40, 0
    write_span_file(out, header, pieces, source, no_progress)
    assert 0 < source.given <= 2 * max(piece.tensors[0].nbytes for piece in pieces if piece.tensors)
    assert out.read_bytes() == convert_bytes(model, Span(1, 2))


def test_what_another_model_has_left_is_not_taken(tmp_path):
    model = write_tiny_hf(tmp_path / "one")
    header, pieces = plan_span(open_model(model), Span(1, 2))
    source, out = StoppingSource(model), tmp_path / "span.gguf"
    source.budget = download_size(pieces) - 1
    with pytest.raises(KeyboardInterrupt):
        write_span_file(out, header, pieces, source, no_progress)
    other = write_tiny_hf(tmp_path / "other" / "one", seed=1)
    header, pieces = plan_span(open_model(other), Span(1, 2))
    write_span_file(out, header, pieces, LocalSource(other), no_progress)
    assert out.read_bytes() == convert_bytes(other, Span(1, 2))


def test_large_matrices_are_quantized_in_slabs(tmp_path, monkeypatch):
    model = write_tiny_hf(tmp_path / "llama", "llama")
    whole = convert_bytes(model, Span(1, 1))
    (tmp_path / "fresh.gguf").unlink()
    monkeypatch.setattr("potluck.models.spanfile._SLAB", 200)
    assert convert_bytes(model, Span(1, 1)) == whole
