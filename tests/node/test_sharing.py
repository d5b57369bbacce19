"""What a node gives to others, and to whom, over its real server."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from kit.fileserver import FileServer
from kit.tiny_gguf import write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from kit.waiting import eventually
from potluck.local import HANG_S
from potluck.models.manifest import Manifest
from potluck.models.peer_source import PeerSource
from potluck.models.sources import CoordinatorSource, open_model
from potluck.node import sharing as module
from potluck.node.loading import fetch_span, offer_span, opened
from potluck.node.sharing import Offer, Sharing, parse_range, usable_peers
from potluck.node.upload import Upload
from potluck.types import Attention, EngineKind, Quantize, RowFormat, Span
from potluck.wire.messages import Welcome

TOKEN = "secret"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def welcome(manifest: Manifest, engine: EngineKind) -> Welcome:
    quantize = Quantize.NONE if manifest.format == "gguf" or engine is EngineKind.TRANSFORMERS else Quantize.Q8_0
    return Welcome(
        node="n1",
        model=manifest.digest,
        span=Span(1, 2),
        engine=engine,
        quantize=quantize,
        attention=Attention.EXACT,
        rows=RowFormat.F32,
        context=128,
        peer_token=TOKEN,
    )


def offer_of(model: Path, engine: EngineKind) -> Offer:
    terms = welcome(open_model(model), engine)
    with opened("http://unused", model, terms) as (manifest, source):
        path = fetch_span(manifest, source, terms, lambda *_: None)
    return offer_span(manifest, path, terms)


@pytest.fixture
def model(tmp_path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf", "llama", layers=4)


@pytest.fixture
def offer(model) -> Offer:
    return offer_of(model, EngineKind.LLAMACPP)


@pytest.fixture
def sharing() -> Iterator[Sharing]:
    with closing(Sharing()) as sharing:
        yield sharing


@pytest.fixture
def http(sharing, offer) -> Iterator[httpx.Client]:
    """Someone who holds the token."""
    with httpx.Client(base_url=sharing.start("127.0.0.1", offer), headers=HEADERS, timeout=HANG_S) as client:
        yield client


def part(first: int, last: int) -> dict[str, str]:
    return {"Range": f"bytes={first}-{last}"}


def test_it_gives_exactly_the_tensors_of_its_span(http, model):
    manifest, content = open_model(model), model.read_bytes()
    held = {each.sha256: each for each in manifest.tensors if each.layer in (1, 2)}
    assert set(http.get("/tensors").json()) == held.keys()
    for sha256, tensor in held.items():
        reply = http.get(f"/tensors/{sha256}", headers=part(0, tensor.nbytes - 1))
        assert reply.status_code == 206
        assert hashlib.sha256(reply.content).hexdigest() == sha256
        reply = http.get(f"/tensors/{sha256}", headers=part(5, 9))
        assert reply.content == content[tensor.offset + 5 : tensor.offset + 10]
        assert reply.headers["content-range"] == f"bytes 5-9/{tensor.nbytes}"
    other = next(each for each in manifest.tensors if each.layer == 0)
    assert http.get(f"/tensors/{other.sha256}", headers=part(0, 9)).status_code == 404


def test_the_transformers_engines_span_is_given_too_but_converted_weights_are_not(tmp_path):
    model = write_tiny_hf(tmp_path / "tiny", "llama")
    raw = offer_of(model, EngineKind.TRANSFORMERS)
    beside = "model.norm.weight"
    sent = [each for each in open_model(model).tensors if each.layer in (1, 2) or each.name == beside]
    assert raw.ranges.keys() == {each.sha256 for each in sent}
    for sha256, (offset, nbytes) in raw.ranges.items():
        with raw.path.open("rb") as file:
            file.seek(offset)
            assert hashlib.sha256(file.read(nbytes)).hexdigest() == sha256
    assert offer_of(model, EngineKind.LLAMACPP).ranges == {}


@pytest.mark.parametrize("path", ["", "/{}"])
@pytest.mark.parametrize(
    "given", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Bearer secre\xe9"}, {"Authorization": TOKEN}]
)
def test_nothing_is_given_without_the_token(http, offer, path, given):
    url = f"{http.base_url}/tensors{path}".format(next(iter(offer.ranges)))
    reply = httpx.get(url, headers={name: value.encode("latin-1") for name, value in given.items()}, timeout=HANG_S)
    assert (reply.status_code, reply.content) == (401, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_is_read_only(http, offer, method):
    assert http.request(method, f"/tensors/{next(iter(offer.ranges))}").status_code == 405


def test_a_part_outside_the_tensor_is_refused(http, offer):
    sha256, (_, nbytes) = next(iter(offer.ranges.items()))
    for headers in ({}, part(0, nbytes), part(9, 8), {"Range": "bytes=-5"}):
        assert http.get(f"/tensors/{sha256}", headers=headers).status_code == 416


@pytest.mark.parametrize(
    ("header", "result"),
    [("bytes=0-0", (0, 1)), ("bytes=3-9", (3, 10)), ("bytes=3-", None), ("bytes=0-4,6-7", None), ("", None)],
)
def test_ranges_have_one_form(header, result):
    assert parse_range(header, 10) == result


@pytest.fixture
def large(tmp_path) -> Offer:
    """More than sockets buffer."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 28)
    return Offer(path, {"aa": (0, 1 << 28)}, TOKEN)


def slots_are_free(http: httpx.Client) -> bool:
    return http.get("/tensors/aa", headers=part(0, 9)).status_code == 206


def test_at_most_two_replies_run_at_once(sharing, large):
    with httpx.Client(base_url=sharing.start("127.0.0.1", large), headers=HEADERS, timeout=HANG_S) as http:
        with ExitStack() as stack:
            for _ in range(2):
                reply = stack.enter_context(http.stream("GET", "/tensors/aa", headers=part(0, (1 << 28) - 1)))
                assert reply.status_code == 206
            assert http.get("/tensors/aa", headers=part(0, 9)).status_code == 503
            assert http.get("/tensors").status_code == 200
        eventually(lambda: slots_are_free(http))  # they were broken off


def test_whoever_does_not_take_a_reply_loses_the_place(sharing, large, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_S", 0.2)
    with (
        httpx.Client(base_url=sharing.start("127.0.0.1", large), headers=HEADERS, timeout=HANG_S) as http,
        ExitStack() as stack,
    ):
        for _ in range(2):
            stack.enter_context(http.stream("GET", "/tensors/aa", headers=part(0, (1 << 28) - 1)))
        monkeypatch.setattr(module, "_LONGEST_S", HANG_S)  # the next one has the time that it needs
        eventually(lambda: slots_are_free(http))


def test_another_welcome_changes_what_is_given_and_the_token(sharing, offer, large):
    url = sharing.start("127.0.0.1", offer)
    assert sharing.start("127.0.0.1", Offer(large.path, large.ranges, "another")) == url
    assert httpx.get(f"{url}/tensors", headers=HEADERS, timeout=HANG_S).status_code == 401
    assert httpx.get(f"{url}/tensors", headers={"Authorization": "Bearer another"}, timeout=HANG_S).json() == ["aa"]


def test_a_new_token_takes_the_place_of_the_old_one(http, sharing, offer):
    sharing.change_token("another")
    assert http.get("/tensors").status_code == 401
    assert http.get("/tensors", headers={"Authorization": "Bearer another"}).json() == list(offer.ranges)


def test_what_is_withdrawn_is_given_to_nobody_until_it_is_given_again(http, sharing, offer):
    sharing.withdraw()
    for headers in (HEADERS, {"Authorization": "Bearer"}):
        assert http.get("/tensors", headers=headers).status_code == 401
    assert sharing.start("127.0.0.1", offer) == str(http.base_url).rstrip("/")
    assert http.get("/tensors").status_code == 200


def test_where_there_is_nothing_to_give_or_nowhere_to_listen_there_is_no_url(sharing, offer):
    assert sharing.start("127.0.0.1", Offer(offer.path, {}, TOKEN)) == ""
    assert sharing.start("127.0.0.1", Offer(offer.path, offer.ranges, "")) == ""
    assert sharing.start("192.0.2.1", offer) == ""


def test_a_span_file_that_was_deleted_breaks_the_reply_and_no_more(http, offer):
    sha256, (_, nbytes) = next(iter(offer.ranges.items()))
    offer.path.unlink()
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(f"/tensors/{sha256}", headers=part(0, nbytes - 1))
    assert http.get("/tensors").status_code == 200


def test_closing_it_ends_replies_and_frees_the_port(sharing, large):
    url = sharing.start("127.0.0.1", large)
    with httpx.stream("GET", f"{url}/tensors/aa", headers=HEADERS | part(0, (1 << 28) - 1), timeout=HANG_S) as reply:
        sharing.close()
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            reply.read()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0


def test_a_node_fetches_from_another_ones_server(model, offer, sharing, tmp_path, monkeypatch):
    manifest = open_model(model)
    url = sharing.start("127.0.0.1", offer)
    with FileServer(tmp_path, manifest.encode()).running() as coordinator:  # which gives nothing but the manifest
        tensor = max((each for each in manifest.tensors if each.layer == 1), key=lambda each: each.nbytes)
        with closing(CoordinatorSource(coordinator.url)) as origin, closing(PeerSource(origin, [url], TOKEN)) as source:
            source._coordinator.rate = 1.0
            [peer] = source._peers
            peer.greet()
            peer.rate = 2.0
            assert hashlib.sha256(b"".join(source.fetch(tensor))).hexdigest() == tensor.sha256
        with closing(PeerSource(CoordinatorSource(coordinator.url), [url], "wrong")) as source:
            [peer] = source._peers
            peer.greet()
            assert peer.tensors == frozenset()


def test_loopback_addresses_are_asked_only_by_those_who_came_that_way():
    peers = ("http://127.0.0.1:1", "http://192.168.1.5:2", "http://[::1]:3", "http://[fd00::1]:4")
    assert usable_peers(peers, "127.0.0.1") == peers
    assert usable_peers(peers, "192.168.1.7") == (peers[1], peers[3])


def test_what_is_given_fits_the_owners_rate(large):
    with closing(Sharing(Upload(8e6))) as sharing:
        url = sharing.start("127.0.0.1", large)
        begin = time.monotonic()
        reply = httpx.get(f"{url}/tensors/aa", headers=HEADERS | part(0, (4 << 20) - 1), timeout=HANG_S)
        assert len(reply.content) == 4 << 20
        assert time.monotonic() - begin > 0.25  # three of its four MiB, but for what goes at once
