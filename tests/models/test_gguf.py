"""GGUF models: reading them, refusing what is none, and cutting spans out of them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

from kit.tiny_gguf import write_tiny_gguf
from potluck.errors import IntegrityError, ModelError, SpanError
from potluck.models import spanfile
from potluck.models.sources import LocalSource, open_model
from potluck.models.spanfile import download_size, write_span_file
from potluck.models.spans import engines_for, plan_span
from potluck.models.vetting import decode
from potluck.types import Span


def no_progress(_nbytes):
    pass


def write_span(model, span, out):
    header, pieces = plan_span(open_model(model), span)
    write_span_file(out, header, pieces, LocalSource(model.parent), no_progress)
    return GGUFReader(out)


def tensors(reader):
    return {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.parametrize(("architecture", "context"), [("gptneox", 512), ("llama", 256)])
def test_the_manifest_says_what_the_model_is(tmp_path, architecture, context):
    path = write_tiny_gguf(tmp_path / "tiny.gguf", architecture, layers=5, hidden=64, vocabulary=300, context=context)
    manifest = open_model(path)
    assert (manifest.format, manifest.architecture, manifest.name) == ("gguf", architecture, "tiny")
    assert (manifest.layers, manifest.hidden_size, manifest.vocabulary, manifest.context) == (5, 64, 300, context)
    assert manifest.files == {"tiny.gguf"}
    assert engines_for(manifest) == ("llamacpp",)
    assert sum(manifest.layer_bytes()) < sum(tensor.nbytes for tensor in manifest.tensors) < path.stat().st_size
    assert decode(manifest.encode()) == manifest


def test_equal_models_have_equal_digests_wherever_they_lie(tmp_path):
    one = open_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    (tmp_path / "other").mkdir()
    same = open_model(write_tiny_gguf(tmp_path / "other" / "tiny.gguf"))
    different = open_model(write_tiny_gguf(tmp_path / "different.gguf", seed=1))
    assert one.digest == same.digest != different.digest


def test_hashing_is_done_once_for_each_state_of_the_file(tmp_path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    hashed: list[int] = []
    first = open_model(path, hashed.append)
    assert sum(hashed) == sum(tensor.nbytes for tensor in first.tensors)
    hashed.clear()
    assert open_model(path, hashed.append) == first
    assert hashed == []
    write_tiny_gguf(path, seed=1)
    assert open_model(path, hashed.append).digest != first.digest
    assert hashed


def test_a_middle_span_has_its_layers_renumbered_and_stubs_for_the_rest(tmp_path):
    model = write_tiny_gguf(tmp_path / "tiny.gguf", "gptneox", layers=6, hidden=64)
    whole, cut = tensors(GGUFReader(model)), write_span(model, Span(2, 3), tmp_path / "span.gguf")
    span = tensors(cut)
    assert {name for name in span if name.startswith("blk.")} == {
        name for name in whole if name.startswith(("blk.0.", "blk.1."))
    }
    for name, tensor in span.items():
        if name.startswith("blk."):
            layer, rest = name.split(".", 2)[1:]
            assert np.array_equal(tensor.data, whole[f"blk.{int(layer) + 2}.{rest}"].data)
        else:
            assert not tensor.data.any()
    assert list(span["token_embd.weight"].shape) == list(span["output.weight"].shape) == [64, 2]
    assert cut.fields["gptneox.block_count"].contents() == 2
    assert cut.fields["gptneox.vocab_size"].contents() == 2
    assert cut.fields["tokenizer.ggml.model"].contents() == "no_vocab"


def test_the_ends_hold_embedding_and_head(tmp_path):
    model = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=4, vocabulary=300)
    whole = tensors(GGUFReader(model))
    first = tensors(write_span(model, Span(0, 1), tmp_path / "first.gguf"))
    last = tensors(write_span(model, Span(2, 3), tmp_path / "last.gguf"))
    assert np.array_equal(first["token_embd.weight"].data, whole["token_embd.weight"].data)
    assert not first["output.weight"].data.any()
    assert list(first["output.weight"].shape) == [64, 300]
    assert np.array_equal(last["output.weight"].data, whole["output.weight"].data)
    assert np.array_equal(last["output_norm.weight"].data, whole["output_norm.weight"].data)
    assert not last["token_embd.weight"].data.any()


def test_a_tied_embedding_is_at_both_ends(tmp_path):
    model = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=3, tied=True)
    whole = tensors(GGUFReader(model))["token_embd.weight"].data
    for span in (Span(0, 0), Span(2, 2)):
        cut = tensors(write_span(model, span, tmp_path / f"{span}.gguf"))
        assert np.array_equal(cut["token_embd.weight"].data, whole)
        assert "output.weight" not in cut
    middle = tensors(write_span(model, Span(1, 1), tmp_path / "middle.gguf"))
    assert list(middle["token_embd.weight"].shape) == [64, 2]


def write_heads(path: Path, layers: int) -> Path:
    """A model with heads for three layers."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv([1, 2, 4])
    writer.add_array("llama.rope.sections", [1, 2])
    for name in ("token_embd.weight", "blk.0.x.weight", "blk.1.x.weight", "blk.2.x.weight"):
        writer.add_tensor(name, np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_model_with_heads_for_too_few_layers_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"gives 3 numbers as its llama\.attention\.head_count_kv"):
        open_model(write_heads(tmp_path / "tiny.gguf", layers=4))


def test_arrays_with_one_entry_a_layer_are_cut_too(tmp_path):
    path = write_heads(tmp_path / "tiny.gguf", layers=3)
    cut = write_span(path, Span(1, 2), tmp_path / "span.gguf")
    assert cut.fields["llama.attention.head_count_kv"].contents() == [2, 4]
    assert cut.fields["llama.rope.sections"].contents() == [1, 2]


def test_a_span_outside_the_model_is_refused(tmp_path):
    manifest = open_model(write_tiny_gguf(tmp_path / "tiny.gguf", layers=6))
    with pytest.raises(SpanError, match="its layers are 0-5"):
        plan_span(manifest, Span(4, 6))


def test_an_interrupted_span_file_is_taken_up_where_it_stopped(tmp_path):
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    header, pieces = plan_span(open_model(model), Span(1, 4))
    source, out = CountingSource(model.parent), tmp_path / "span.gguf"
    source.stop_after = download_size(pieces) // 2
    with pytest.raises(KeyboardInterrupt):
        write_span_file(out, header, pieces, source, no_progress)
    assert not out.exists()
    before, source.stop_after = source.given, None
    seen: list[int] = []
    write_span_file(out, header, pieces, source, seen.append)
    assert source.given == download_size(pieces)
    assert before > download_size(pieces) // 3
    assert sum(seen) == download_size(pieces)
    fresh = tmp_path / "fresh.gguf"
    write_span_file(fresh, header, pieces, source, no_progress)
    assert out.read_bytes() == fresh.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fresh.gguf", "span.gguf", "tiny.gguf"]


def test_damage_to_the_interrupted_file_is_noticed(tmp_path):
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    header, pieces = plan_span(open_model(model), Span(1, 4))
    out, source = tmp_path / "span.gguf", CountingSource(model.parent)
    write_span_file(out, header, pieces, source, no_progress)
    good = out.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    out.unlink()
    (tmp_path / "span.gguf.part").write_bytes(bad)
    source.given = 0
    write_span_file(out, header, pieces, source, no_progress)
    assert out.read_bytes() == good
    assert 0 < source.given <= max(piece.nbytes for piece in pieces)


def test_a_source_of_wrong_bytes_is_refused_by_name(tmp_path):
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    header, pieces = plan_span(open_model(model), Span(1, 1))
    victim = next(piece.tensors[0] for piece in pieces if piece.name == "blk.0.ffn_up.weight")
    with model.open("r+b") as file:
        file.seek(victim.offset)
        file.write(b"\xff\xff")
    with pytest.raises(IntegrityError, match=r"blk\.1\.ffn_up\.weight of tiny\.gguf"):
        write_span_file(tmp_path / "span.gguf", header, pieces, LocalSource(tmp_path), no_progress)
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.gguf"]  # it could never be finished


def test_nothing_is_fetched_for_which_the_disk_has_no_room(tmp_path, monkeypatch):
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    header, pieces = plan_span(open_model(model), Span(1, 4))
    source, out, needed = CountingSource(model.parent), tmp_path / "span.gguf", download_size(pieces)
    room = spanfile._SPARE_DISK + needed

    def disk_with(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    disk_with(room - 1)
    with pytest.raises(
        ModelError,
        match=r"These layers need 0 MiB in .*, and 256 of them must stay free: make room, or serve fewer layers",
    ):
        write_span_file(out, header, pieces, source, no_progress)
    assert source.given == 0
    disk_with(room)
    source.stop_after = needed // 2
    with pytest.raises(KeyboardInterrupt):
        write_span_file(out, header, pieces, source, no_progress)
    source.stop_after = None
    disk_with(room - needed // 3)  # what is there already needs no room
    write_span_file(out, header, pieces, source, no_progress)
    assert out.exists()


@pytest.mark.parametrize("keep", [0, 3, 20, 200, 2000, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"tiny\.gguf"):
        open_model(path)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="nothing does not exist"):
        open_model(tmp_path / "nothing")
    (tmp_path / "text.gguf").write_text("This is text, and long enough to be a header.")
    with pytest.raises(ModelError, match=r"text\.gguf is not a GGUF file"):
        open_model(tmp_path / "text.gguf")


def test_an_architecture_without_a_proper_name_is_refused(tmp_path):
    path = tmp_path / "strange.gguf"
    writer = GGUFWriter(path, "../strange")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"architecture \.\./strange, which has no such name"):
        open_model(path)


@pytest.mark.parametrize("dtype", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0])
def test_quantized_tensors_are_copied_byte_for_byte(tmp_path, dtype):
    model = write_tiny_gguf(tmp_path / "tiny.gguf", "llama", dtype=dtype)
    cut = tensors(write_span(model, Span(3, 3), tmp_path / "span.gguf"))["blk.0.ffn_gate.weight"]
    assert cut.tensor_type is dtype
    assert np.array_equal(cut.data, tensors(GGUFReader(model))["blk.3.ffn_gate.weight"].data)


class CountingSource(LocalSource):
    """Counts what it gives; is interrupted after `stop_after` bytes."""

    given = 0
    stop_after: int | None = None

    def stream(self, file, offset, nbytes):
        for chunk in super().stream(file, offset, nbytes):
            for begin in range(0, len(chunk), 1000):
                if self.stop_after is not None and self.given >= self.stop_after:
                    raise KeyboardInterrupt
                part = chunk[begin : begin + 1000]
                self.given += len(part)
                yield part
