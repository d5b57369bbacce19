"""A node's download, over a real HTTP server: how much it fetches, and what becomes of bad lines and bad bytes."""

import json
from contextlib import closing

import numpy as np
import pytest

from kit.checkpoints import needs_torch, save_checkpoint
from kit.fileserver import FileServer
from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.errors import IntegrityError, ModelError, TicketExpired
from potluck.models import http_source
from potluck.models.arrays import read_array
from potluck.models.huggingface import span_tensors
from potluck.models.sources import CoordinatorSource, HubSource, LocalSource, local_source, open_hub, open_model
from potluck.models.spanfile import download_size, write_span_file
from potluck.models.spans import plan_span
from potluck.types import Quantize, Span


def no_progress(_nbytes):
    pass


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(http_source, "_FIRST_PAUSE_S", 0.0)


@pytest.fixture(params=["gguf", "huggingface"])
def model(request, tmp_path):
    """A model of 44 layers in each format."""
    if request.param == "gguf":
        return write_tiny_gguf(tmp_path / "tiny.gguf", "gptneox", layers=44, hidden=32, heads=1)
    return write_tiny_hf(tmp_path / "tiny", "gpt_neox", layers=44, hidden=32, heads=1, dtype="F16")


@pytest.fixture
def server(model):
    folder = model if model.is_dir() else model.parent
    with FileServer(folder, open_model(model).encode()).running() as server:
        yield server


@pytest.fixture
def coordinator(server):
    source = CoordinatorSource(server.url)
    yield source
    source.close()


def plan(manifest, span):
    return plan_span(manifest, span, Quantize.F16)


def write(coordinator, span, out, progress=no_progress):
    header, pieces = plan(coordinator.manifest(), span)
    write_span_file(out, header, pieces, coordinator, progress)


def locally(model, span, out):
    header, pieces = plan(open_model(model), span)
    write_span_file(out, header, pieces, local_source(model), no_progress)
    return out.read_bytes()


@pytest.mark.parametrize("span", [Span(0, 3), Span(20, 23), Span(40, 43)])
def test_a_node_fetches_its_own_layers_and_no_more(model, server, coordinator, tmp_path, span):
    manifest = open_model(model)
    total = sum(tensor.nbytes for tensor in manifest.tensors)
    table = manifest.vocabulary * manifest.hidden_size * 2
    ends = table * ((span.first == 0) + (span.last == 43))
    seen: list[int] = []
    write(coordinator, span, tmp_path / "span.gguf", seen.append)
    assert server.sent == sum(seen)
    assert server.sent <= total * 4 / 44 + total * 0.01 + ends
    assert server.sent >= total * 3.5 / 44
    assert (tmp_path / "span.gguf").read_bytes() == locally(model, span, tmp_path / "local.gguf")


@pytest.mark.parametrize("model", ["huggingface"], indirect=True)
def test_the_transformers_engine_fetches_no_more_either(model, server, coordinator):
    manifest = coordinator.manifest()
    needed = span_tensors(manifest, Span(20, 23))
    for tensor in needed:
        assert np.array_equal(read_array(tensor, coordinator), read_array(tensor, LocalSource(model)))
    layers = sum(manifest.layer_bytes()[20:24])
    assert layers < server.sent == sum(tensor.nbytes for tensor in needed) < 1.01 * layers  # a norm is beside them


def test_a_connection_that_breaks_is_taken_up_where_it_broke(model, server, coordinator, tmp_path):
    header, pieces = plan(coordinator.manifest(), Span(5, 8))
    server.break_after = download_size(pieces) // 2 + 1000  # in the middle of a tensor
    server.busy = 2
    write_span_file(tmp_path / "span.gguf", header, pieces, coordinator, no_progress)
    assert server.sent == download_size(pieces)
    assert (tmp_path / "span.gguf").read_bytes() == locally(model, Span(5, 8), tmp_path / "local.gguf")


def test_a_download_that_was_stopped_goes_on_in_the_next_run(model, server, coordinator, tmp_path):
    header, pieces = plan(coordinator.manifest(), Span(5, 8))
    arrived = 0

    def stop_halfway(nbytes):
        nonlocal arrived
        arrived += nbytes
        if arrived > download_size(pieces) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_span_file(tmp_path / "span.gguf", header, pieces, coordinator, stop_halfway)
    before = server.sent
    seen: list[int] = []
    write_span_file(tmp_path / "span.gguf", header, pieces, coordinator, seen.append)
    assert sum(seen) == download_size(pieces)
    largest = max(piece.tensors[0].nbytes for piece in pieces if piece.tensors)
    assert server.sent - before <= download_size(pieces) // 2 + largest
    assert (tmp_path / "span.gguf").read_bytes() == locally(model, Span(5, 8), tmp_path / "local.gguf")
    assert not list(tmp_path.glob("span.gguf.*"))


def test_a_flipped_byte_is_noticed_and_fetched_again(model, server, coordinator, tmp_path):
    header, pieces = plan(coordinator.manifest(), Span(5, 8))
    server.flips = 1
    seen: list[int] = []
    write_span_file(tmp_path / "span.gguf", header, pieces, coordinator, seen.append)
    assert server.sent > download_size(pieces) == sum(seen)
    assert (tmp_path / "span.gguf").read_bytes() == locally(model, Span(5, 8), tmp_path / "local.gguf")


def test_bytes_that_stay_wrong_are_refused_by_name(server, coordinator, tmp_path):
    header, pieces = plan(coordinator.manifest(), Span(5, 8))
    server.flips = 2
    name = next(piece.tensors[0].name for piece in pieces if piece.tensors)
    with pytest.raises(IntegrityError, match=rf"Tensor {name} of .* arrived twice with the wrong SHA-256"):
        write_span_file(tmp_path / "span.gguf", header, pieces, coordinator, no_progress)
    assert not (tmp_path / "span.gguf").exists()


def test_a_file_that_the_coordinator_does_not_have_is_refused(server, coordinator):
    with pytest.raises(ModelError, match=r"answers 404 to a request for a part of ghost\.safetensors"):
        list(coordinator.stream("ghost.safetensors", 0, 10))


def test_the_ticket_is_shown_to_the_coordinator_and_to_nobody_else(model, server):
    server.ticket = "ticket"
    folder = model if model.is_dir() else model.parent
    file = min(open_model(model).files)
    with FileServer(folder).running() as hub, closing(CoordinatorSource(server.url, "ticket")) as source:
        assert source.manifest().digest == open_model(model).digest
        server.elsewhere = hub.url
        assert len(b"".join(source.stream(file, 0, 10))) == 10
        assert server.shown == ["Bearer ticket"] * 2
        assert hub.shown == [""]


def test_an_expired_ticket_is_told_from_other_troubles(server):
    server.ticket = "new"
    with closing(CoordinatorSource(server.url, "old")) as source:
        with pytest.raises(TicketExpired):
            source.manifest()
        with pytest.raises(TicketExpired):
            list(source.stream("any", 0, 10))
    with closing(CoordinatorSource(server.url)) as source, pytest.raises(ModelError, match="answers 401") as caught:
        source.manifest()
    assert not isinstance(caught.value, TicketExpired)


def test_a_coordinator_that_is_not_there_gives_no_manifest():
    source = CoordinatorSource("http://127.0.0.1:1")
    with pytest.raises(ModelError, match="The coordinator gives no manifest"):
        source.manifest()
    with pytest.raises(ModelError, match=r"The download of a\.gguf broke 6 times"):
        list(source.stream("a.gguf", 0, 10))
    source.close()


@pytest.mark.parametrize("model", ["huggingface"], indirect=True)
class TestHub:
    @pytest.fixture
    def hub(self, server):
        source = HubSource("someone/tiny", endpoint=server.url)
        yield source
        source.close()

    def test_the_model_is_the_same_there_as_here(self, model, server, hub):
        manifest = open_hub(hub)
        assert manifest.digest == open_model(model).digest
        assert manifest.name == "tiny"
        assert hub.revision == server.revision
        sent = server.sent
        assert open_hub(hub) == manifest
        assert server.sent == sent

    def test_a_span_is_fetched_by_ranges_and_verified(self, model, server, hub, tmp_path):
        manifest = open_model(model)
        header, pieces = plan(manifest, Span(20, 23))
        server.flips = 1
        write_span_file(tmp_path / "span.gguf", header, pieces, hub, no_progress)
        total = sum(tensor.nbytes for tensor in manifest.tensors)
        largest = max(tensor.nbytes for tensor in manifest.tensors)
        assert server.sent <= total * 4 / 44 + total * 0.01 + largest
        assert (tmp_path / "span.gguf").read_bytes() == locally(model, Span(20, 23), tmp_path / "local.gguf")

    def test_a_missing_shard_is_named(self, model, server):
        (model / "model-00002-of-00003.safetensors").unlink()
        hub = HubSource("someone/tiny", endpoint=server.url)
        with pytest.raises(ModelError, match=r"someone/tiny/model-00002-of-00003\.safetensors is missing"):
            open_hub(hub)
        hub.close()

    def test_a_repository_that_does_not_exist_is_refused(self, server):
        with pytest.raises(ModelError, match="gives no model someone/else: it answers 404"):
            HubSource("someone/else", endpoint=server.url)

    @needs_torch
    def test_older_checkpoints_are_read_by_ranges_too(self, model, server, hub, tmp_path):
        manifest, source = open_model(model), LocalSource(model)
        state = {each.name: read_array(each, source) for each in manifest.tensors}
        old = tmp_path / "old"
        old.mkdir()
        save_checkpoint(old / "pytorch_model.bin", state)
        (old / "config.json").write_text(json.dumps(manifest.metadata["config"]))
        server.folder = old
        hub = HubSource("someone/tiny", endpoint=server.url)
        assert open_hub(hub).digest == manifest.digest
        hub.close()


def test_a_snapshot_in_the_hubs_cache_has_the_models_name(tmp_path):
    folder = tmp_path / "models--acme--tiny-llama" / "snapshots" / ("0123456789abcdef" * 2 + "01234567")
    folder.parent.mkdir(parents=True)
    write_tiny_hf(folder)
    assert open_model(folder).name == "tiny-llama"
    (tmp_path / "latest").symlink_to(folder)
    assert open_model(tmp_path / "latest").name == "tiny-llama"
