"""Tensors from other nodes, over real HTTP servers: who is asked, and what becomes of bad peers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.fileserver import FileServer
from kit.tiny_gguf import write_tiny_gguf
from kit.waiting import eventually
from potluck.errors import IntegrityError
from potluck.models import http_source, peer_source
from potluck.models.manifest import Manifest
from potluck.models.peer_source import Peer, PeerSource, block_bytes, choose
from potluck.models.sources import CoordinatorSource, local_source, open_model
from potluck.models.spanfile import download_size, write_span_file
from potluck.models.spans import plan_span
from potluck.types import Span

SPAN = Span(1, 4)
TOKEN = "token"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Layers of 1.5 MiB; their matrices have 256 to 768 KiB."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    return write_tiny_gguf(path, layers=6, hidden=256, feed_forward=512, heads=4)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """As if the tensors were eight times as large as they are."""
    monkeypatch.setattr(peer_source, "_SAMPLE", 1 << 15)
    monkeypatch.setattr(peer_source, "_FIRST_BLOCK", 1 << 18)
    monkeypatch.setattr(http_source, "_FIRST_PAUSE_S", 0.0)


@pytest.fixture
def manifest(model) -> Manifest:
    return open_model(model)


@pytest.fixture
def slow(model) -> float:
    """Bytes a second: a small part of what a server on this machine gives now."""
    with FileServer(model.parent).running() as server, closing(CoordinatorSource(server.url)) as source:
        began = time.perf_counter()
        nbytes = sum(map(len, source.stream(model.name, 0, model.stat().st_size)))
        return min(2e6, nbytes / (time.perf_counter() - began) / 50)


@pytest.fixture
def coordinator(model, manifest, slow) -> Iterator[FileServer]:
    with FileServer(model.parent, manifest.encode()).running() as server:
        server.pace = slow
        yield server


@pytest.fixture
def node(model, manifest) -> Iterator[list[FileServer]]:
    """Two nodes that hold the span."""
    content = model.read_bytes()
    held = {
        each.sha256: content[each.offset : each.offset + each.nbytes]
        for each in manifest.tensors
        if each.layer is not None and each.layer in SPAN
    }
    with ExitStack() as stack:
        yield [stack.enter_context(FileServer(model.parent, tensors=held).running()) for _ in range(2)]


def source_of(coordinator: FileServer, *nodes: FileServer) -> PeerSource:
    """One that knows already what the nodes hold."""
    source = PeerSource(CoordinatorSource(coordinator.url), [each.url for each in nodes], TOKEN)
    source._greet()
    eventually(lambda: all(peer.tensors for peer in source._peers))
    return source


def write(manifest: Manifest, source: PeerSource, out: Path, progress=lambda _: None) -> int:
    """The size of what it takes."""
    header, pieces = plan_span(manifest, SPAN)
    with closing(source):
        write_span_file(out, header, pieces, source, progress)
    return download_size(pieces)


@pytest.fixture
def right(model, manifest, tmp_path) -> bytes:
    """What the span file must be."""
    header, pieces = plan_span(manifest, SPAN)
    write_span_file(tmp_path / "right.gguf", header, pieces, local_source(model), lambda _: None)
    return (tmp_path / "right.gguf").read_bytes()


def test_the_bytes_come_from_the_node_when_the_coordinator_is_slow(coordinator, node, manifest, right, tmp_path):
    size = write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert coordinator.sent + node[0].sent == size  # nothing twice
    assert node[0].sent > 0.8 * size
    assert node[0].tokens == {f"Bearer {TOKEN}"}


def test_the_bytes_come_from_the_coordinator_when_the_node_is_slow(coordinator, node, manifest, right, tmp_path, slow):
    coordinator.pace, node[0].pace = None, slow
    size = write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert coordinator.sent + node[0].sent == size
    assert coordinator.sent > 0.8 * size


def test_of_two_nodes_the_faster_gives_most(coordinator, node, manifest, right, tmp_path, slow):
    node[0].pace = slow
    size = write(manifest, source_of(coordinator, *node), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert coordinator.sent + node[0].sent + node[1].sent == size
    assert 0 < node[0].sent < 0.2 * size < 0.6 * size < node[1].sent


def test_a_node_that_lies_is_never_asked_again(coordinator, node, manifest, right, tmp_path, caplog):
    node[0].flips = 1 << 30
    seen: list[int] = []
    size = write(manifest, source_of(coordinator, *node), tmp_path / "span.gguf", seen.append)
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert sum(seen) == size
    assert len({name for name, _, _ in node[0].ranges}) == 1
    assert f"{node[0].url} gave wrong bytes" in caplog.text
    assert node[1].sent > 0.6 * size
    assert coordinator.sent + node[1].sent + node[0].sent <= size + 2 * (1 << 18) + max(
        t.nbytes for t in manifest.tensors
    )


def test_when_all_nodes_lie_the_coordinator_gives_what_is_right(coordinator, node, manifest, right, tmp_path):
    coordinator.pace = 2e6
    for each in node:
        each.flips = 1 << 30
    write(manifest, source_of(coordinator, *node), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right


def test_a_coordinator_that_lies_twice_is_refused_as_before(coordinator, node, manifest, tmp_path):
    coordinator.flips = 1 << 30
    with pytest.raises(IntegrityError, match="twice with the wrong SHA-256"):
        write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf")


def test_a_node_that_hangs_costs_no_more_than_its_time_outs(coordinator, node, manifest, right, tmp_path):
    coordinator.pace, node[0].stalls = 2e6, True
    source = source_of(coordinator, node[0])
    source._peers[0]._client.timeout = 0.2
    write(manifest, source, tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert 1 <= len(node[0].ranges) < peer_source._TRIES


def test_a_node_that_dies_in_the_middle_is_replaced_there(coordinator, node, manifest, right, tmp_path):
    node[0].break_after = 1 << 20
    size = write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert coordinator.sent + node[0].sent == size  # the coordinator goes on where it broke
    assert node[0].sent >= 1 << 20


def test_a_node_without_a_tensor_is_not_asked_for_it(coordinator, node, manifest, right, tmp_path):
    missing = [each.sha256 for each in manifest.tensors if each.layer == 2]
    node[0].tensors = {sha: data for sha, data in node[0].tensors.items() if sha not in missing}
    size = write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert not {name for name, _, _ in node[0].ranges} & set(missing)
    assert size / 4 <= coordinator.sent < size / 2


def test_a_node_that_is_busy_is_left_alone_for_a_while(coordinator, node, manifest, right, tmp_path):
    coordinator.pace, node[0].busy = 2e6, 1 << 30
    write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert (1 << 30) - node[0].busy < peer_source._TRIES


def test_nodes_out_of_reach_are_not_waited_for(coordinator, manifest, right, tmp_path):
    coordinator.pace = None
    source = PeerSource(CoordinatorSource(coordinator.url), ["http://127.0.0.1:1"], TOKEN)
    size = write(manifest, source, tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert coordinator.sent == size


def test_an_interrupted_download_goes_on(coordinator, node, manifest, right, tmp_path):
    arrived = 0

    def stop_halfway(nbytes: int) -> None:
        nonlocal arrived
        arrived += nbytes
        if arrived > len(right) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf", stop_halfway)
    sent = coordinator.sent + node[0].sent
    size = write(manifest, source_of(coordinator, node[0]), tmp_path / "span.gguf")
    assert (tmp_path / "span.gguf").read_bytes() == right
    assert coordinator.sent + node[0].sent - sent < 0.7 * size


def test_bytes_that_an_earlier_run_left_wrong_are_not_blamed_on_the_node(coordinator, node, manifest, caplog):
    tensor = max((each for each in manifest.tensors if each.layer == 2), key=lambda each: each.nbytes)
    with closing(source_of(coordinator, node[0])) as source:
        rest = b"".join(source.fetch(tensor, 1000))
        assert node[0].sent > 0
        source.distrust(tensor)
        sent = node[0].sent
        whole = b"".join(source.fetch(tensor))
        assert node[0].sent == sent  # what is in doubt comes from the coordinator alone
    assert whole[1000:] == rest
    assert hashlib.sha256(whole).hexdigest() == tensor.sha256
    assert "wrong bytes" not in caplog.text


def test_a_list_of_tensors_without_end_is_not_read(coordinator, node, monkeypatch):
    monkeypatch.setattr(peer_source, "_LONGEST_LIST", 100)
    peer = Peer(node[0].url, TOKEN)
    peer.greet()
    assert peer.tensors == frozenset()
    peer.close()


def test_only_a_few_of_the_nodes_that_a_coordinator_names_are_asked(coordinator):
    urls = [f"http://127.0.0.1:{port}" for port in range(1, 1000)]
    with closing(PeerSource(CoordinatorSource(coordinator.url), urls, TOKEN)) as source:
        assert len({peer.url for peer in source._peers}) == peer_source._MOST_PEERS


def test_a_list_of_what_is_no_tensor_is_not_taken(coordinator, node):
    node[0].tensors = {"": b"", "x": b""}
    peer = Peer(node[0].url, TOKEN)
    peer.greet()
    assert peer.tensors == frozenset()
    peer.close()


def supplier(rate: float | None) -> Peer:
    peer = Peer("http://127.0.0.1:1", TOKEN)
    peer.rate = rate
    peer.close()
    return peer


def test_each_is_tried_once_and_then_the_fastest_is_taken():
    one, two, three = supplier(5.0), supplier(9.0), supplier(None)
    assert choose([one, two, three], 1 << 20) is three
    assert choose([one, two, three], 100) is two
    assert choose([supplier(None), three], 100) is not three
    assert choose([one, two], 1 << 20) is two
    assert choose([one, supplier(5.0)], 1 << 20) is one


@given(st.none() | st.floats(0, 1e12), st.integers(1, 1 << 40))
def test_a_block_is_never_empty_nor_more_than_is_left(rate, left):
    assert 1 <= block_bytes(rate, left) <= min(left, peer_source._LARGEST_BLOCK)
