"""GGUF models that come in several files: opened by any of them, equal to the whole, and refused when one is wrong."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from kit.fileserver import FileServer
from kit.sentences import refused
from kit.tiny_gguf import EXACT, write_tiny_gguf
from potluck.errors import IntegrityError, ModelError
from potluck.models import http_source
from potluck.models.gguf_index import GgufIndex
from potluck.models.shards import name_of, parts_of, read_parts
from potluck.models.sources import CoordinatorSource, LocalSource, find_model, local_source, open_model, weights_size
from potluck.models.spanfile import download_size, write_span_file
from potluck.models.spans import plan_span
from potluck.types import Span

LAYERS = 6


def write(folder: Path, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    return write_tiny_gguf(folder / "tiny.gguf", "llama", layers=LAYERS, tokenizer="bpe", dtype=EXACT, **options)


@pytest.fixture
def whole(tmp_path) -> Path:
    return write(tmp_path / "whole")


@pytest.fixture(params=[False, True], ids=["full", "empty first"])
def parts(request, tmp_path) -> list[Path]:
    first = write(tmp_path / "parts", tensors_a_part=20, empty_first=request.param)
    assert bool(GGUFReader(first).tensors) is not request.param
    return sorted(first.parent.iterdir())


def write_span(model: Path, span: Span, out: Path, source=None) -> bytes:
    write_span_file(out, *plan_span(open_model(model), span), source or local_source(model), lambda _: None)
    return out.read_bytes()


@pytest.mark.parametrize(
    ("file", "parts", "name"),
    [
        ("m.gguf", ["m.gguf"], "m"),
        ("m-00002-of-00002.gguf", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "m"),
        ("m-00001-of-00001.gguf", ["m-00001-of-00001.gguf"], "m"),
        ("m-00003-of-00002.gguf", ["m-00003-of-00002.gguf"], "m"),
        ("m-00000-of-00002.gguf", ["m-00000-of-00002.gguf"], "m"),
        ("m-00001-of-99999.gguf", ["m-00001-of-99999.gguf"], "m"),
        ("-00001-of-00002.gguf", ["-00001-of-00002.gguf"], "-00001-of-00002"),
        ("m-1-of-2.gguf", ["m-1-of-2.gguf"], "m-1-of-2"),
    ],
)
def test_the_parts_follow_from_the_name_of_one(file, parts, name):
    assert list(parts_of(file)) == parts
    assert name_of(file) == name


@given(st.text(max_size=20), st.integers(1, 1024), st.data())
def test_every_part_leads_to_the_same_parts(prefix, count, data):
    number = data.draw(st.integers(1, count))
    names = parts_of(f"{prefix}x-{number:05d}-of-{count:05d}.gguf")
    assert len(names) == len(set(names)) == count
    assert names[number - 1] == f"{prefix}x-{number:05d}-of-{count:05d}.gguf"
    assert parts_of(names[-1]) == names


def test_the_parts_are_the_same_model_as_the_whole(whole, parts):
    manifest = open_model(parts[0])
    assert manifest.name == "tiny"
    assert manifest.digest == open_model(whole).digest
    assert {tensor.file for tensor in manifest.tensors} == {part.name for part in parts if GGUFReader(part).tensors}
    assert not [key for key in manifest.metadata if key.startswith("split.")]
    assert weights_size(parts[-1]) == sum(part.stat().st_size for part in parts)


def test_any_part_opens_the_model_and_it_is_hashed_once(parts):
    hashed: list[int] = []
    manifests = [open_model(part, hashed.append) for part in reversed(parts)]
    assert sum(hashed) == sum(tensor.nbytes for tensor in manifests[0].tensors)
    assert all(manifest == manifests[0] for manifest in manifests)
    assert {find_model(str(part)).path for part in parts} == {parts[0]}


def test_a_change_of_any_part_is_noticed(parts):
    before = open_model(parts[0])
    flip(parts[-1], before.tensors[-1].offset)
    assert open_model(parts[0]).digest != before.digest


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("span", [Span(0, 1), Span(2, 3), Span(4, 5)])
def test_a_span_is_cut_out_of_all_parts(whole, parts, tmp_path, span):
    cut = write_span(parts[1], span, tmp_path / "one.gguf")
    reader, other = GGUFReader(tmp_path / "one.gguf"), write_span(whole, span, tmp_path / "other.gguf")
    assert len(cut) == len(other)
    assert {each.name: each.data.tobytes() for each in reader.tensors} == {
        each.name: each.data.tobytes() for each in GGUFReader(tmp_path / "other.gguf").tensors
    }
    assert not [key for key in reader.fields if key.startswith("split.")]


# Over HTTP


@pytest.fixture
def server(parts, monkeypatch):
    monkeypatch.setattr(http_source, "_FIRST_PAUSE_S", 0.0)
    with FileServer(parts[0].parent, open_model(parts[0]).encode()).running() as server:
        yield server


@pytest.fixture
def coordinator(server):
    with closing(CoordinatorSource(server.url)) as source:
        yield source


def test_two_nodes_fetch_their_ranges_of_all_parts_and_no_more(whole, server, coordinator, tmp_path):
    manifest = coordinator.manifest()
    for span in (Span(0, 2), Span(3, 5)):
        before, (header, pieces) = server.sent, plan_span(manifest, span)
        write_span_file(tmp_path / f"{span}.gguf", header, pieces, coordinator, lambda _: None)
        assert server.sent - before == download_size(pieces)
    assert server.sent == sum(tensor.nbytes for tensor in manifest.tensors)
    assert {name for name, _, _ in server.ranges} == manifest.files
    assert len(manifest.files) >= 2


def test_a_download_from_parts_goes_on_where_it_stopped(parts, server, coordinator, tmp_path):
    header, pieces = plan_span(coordinator.manifest(), Span(1, 4))
    server.break_after = download_size(pieces) // 2 + 1000
    write_span_file(tmp_path / "span.gguf", header, pieces, coordinator, lambda _: None)
    assert server.sent == download_size(pieces)
    assert (tmp_path / "span.gguf").read_bytes() == write_span(parts[0], Span(1, 4), tmp_path / "local.gguf")


def test_a_flipped_byte_in_the_second_part_is_found_and_named(parts, server, coordinator, tmp_path):
    manifest = coordinator.manifest()
    victim = next(tensor for tensor in manifest.tensors if tensor.file == parts[1].name and tensor.layer is not None)
    flip(parts[1], victim.offset + victim.nbytes // 2)
    header, pieces = plan_span(manifest, Span(victim.layer, victim.layer))
    where = re.escape(f"Tensor {victim.name} of {parts[1].name} arrived twice with the wrong SHA-256")
    with pytest.raises(IntegrityError, match=where):
        write_span_file(tmp_path / "span.gguf", header, pieces, coordinator, lambda _: None)
    assert not (tmp_path / "span.gguf").exists()


# What is wrong is told


@pytest.mark.parametrize("missing", [0, 1, -1])
def test_a_missing_part_is_named(parts, missing):
    parts[missing].unlink()
    said = refused(parts[0 if missing else 1], open_model)
    assert f"{parts[missing]} is missing, and without it the model, which comes in {len(parts)} files" in said


def test_a_part_under_the_name_of_another_is_refused(parts):
    shutil.copy(parts[2], parts[1])
    said = refused(parts[0], open_model)
    assert said == (
        f"{parts[1]} is part 2 of {len(parts)} by its name, but says that it is part 3 of {len(parts)}; fetch it again."
    )


def test_a_part_of_a_model_with_more_parts_is_refused(parts, tmp_path):
    other = write(tmp_path / "other", tensors_a_part=10)
    shutil.copy(other.with_name(parts_of(other.name)[1]), parts[1])
    assert "is part 2 of " in refused(parts[0], open_model)


def test_a_whole_file_under_the_name_of_a_part_is_refused(whole, parts):
    shutil.copy(whole, parts[1])
    assert "by its name, but is no part of a model" in refused(parts[0], open_model)


def test_a_part_that_has_lost_its_name_is_refused(parts):
    lone = parts[1].rename(parts[1].with_name("model.gguf"))
    said = refused(lone, open_model)
    assert f"is part 2 of {len(parts)} of a model: give all parts the names that they had" in said
    assert f"model-00002-of-{len(parts):05d}.gguf" in said


def test_a_truncated_part_is_named(parts):
    parts[-1].write_bytes(parts[-1].read_bytes()[:-500])
    assert refused(parts[0], open_model).startswith(f"{parts[-1]} is a broken or truncated GGUF file")


def test_a_part_that_is_no_gguf_is_named(parts):
    parts[-1].write_text("Bring a salad.")
    assert refused(parts[0], open_model) == f"{parts[-1]} is not a GGUF file."


def change_count(path: Path, key: str, value: int) -> None:
    reader = GGUFReader(path, "r+")
    reader.fields[key].parts[reader.fields[key].data[0]][0] = value
    reader.data.flush()


def test_a_total_that_the_parts_do_not_reach_is_refused(parts):
    change_count(parts[0], "split.tensors.count", 999)
    assert "says that the model has 999 tensors, but its parts hold 57" in refused(parts[0], open_model)


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    first = write(tmp_path / "parts", tensors_a_part=29)
    second = first.with_name(parts_of(first.name)[1])
    second.write_bytes(second.read_bytes().replace(b"blk.3.attn_k.weight", b"blk.0.attn_k.weight"))
    said = refused(first, open_model)
    assert said.endswith(f"blk.0.attn_k.weight is in {first.name} and {second.name}; fetch all parts again.")


class Here(LocalSource):
    def size(self, _: str) -> int:
        return 1


@pytest.mark.parametrize("kind", ["UINT32", "INT16", "STRING"])
def test_numbers_of_another_type_are_refused_at_which_llama_cpp_would_abort(kind):
    index = GgufIndex({"split.no": ([kind], 0), "split.count": (["UINT16"], 2)}, ())
    with pytest.raises(ModelError, match=r"here/m-00001-of-00002\.gguf is part 1 of 2 by its name, but is no part"):
        read_parts(Here(Path("here")), "m-00001-of-00002.gguf", lambda _: index)
