"""GGUF models on the hub: read by ranges, fetched by nodes, opened by a token, and refused with advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from gguf import GGUFReader
from huggingface_hub import constants

from kit.hostile import Hostile, Reply
from kit.hub import NAME, Hub
from kit.sentences import check_sentence
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.tiny_hf import write_tiny_hf
from potluck.coordinator.text.gguf_tokenizer import GgufTokenizer
from potluck.errors import IntegrityError, ModelError
from potluck.models import gguf_index, http_source
from potluck.models.gguf_index import read_head, read_index
from potluck.models.hub import repository_of
from potluck.models.shards import parts_of
from potluck.models.sources import CoordinatorSource, Found, LocalSource, find_model, open_model
from potluck.models.spanfile import download_size, write_span_file
from potluck.models.spans import plan_span
from potluck.types import Span

TEXT = "the hello potluck in the <|im_start|>"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(http_source, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def write(path: Path, tensors_a_part: int = 0, *, empty_first: bool = False, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tiny_gguf(
        path, "llama", layers=6, hidden=128, feed_forward=512, tokenizer="bpe", dtype=EXACT,
        tensors_a_part=tensors_a_part, empty_first=empty_first, seed=seed,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    """A repository with one model whole, another in three parts, and what else lies in such repositories."""
    write(tmp_path / "repository" / "tiny-Q8_0.gguf")
    write(tmp_path / "repository" / "Q4_K_M" / "tiny.gguf", 20, empty_first=True, seed=1)
    (tmp_path / "repository" / "mmproj-F16.gguf").write_bytes(b"GGUF")
    (tmp_path / "repository" / "README.md").write_text("A model.")
    return tmp_path / "repository"


@pytest.fixture
def hub(folder, monkeypatch) -> Iterator[Hub]:
    with Hub(folder).running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def find() -> Iterator:
    """`find_model`, whose connections are closed in the end."""
    opened: list[Found] = []

    def start(text: str, revision: str | None = None) -> Found:
        opened.append(find_model(text, revision))
        return opened[-1]

    yield start
    for found in opened:
        if found.hub is not None:
            found.hub.close()


def local(folder: Path, name: str) -> Path:
    return min(folder.glob({"Q8_0": "*-Q8_0.gguf", "Q4_K_M": "Q4_K_M/*-00001-of-*.gguf"}[name]))


@pytest.mark.parametrize("quantization", ["Q8_0", "q8_0", "Q4_K_M"])
def test_the_model_is_the_same_there_as_here(hub, folder, find, quantization):
    here = open_model(local(folder, quantization.upper()))
    found = find(f"hf:{NAME}:{quantization}")
    seen: list[int] = []
    assert found.manifest(seen.append) == here
    assert sum(seen) == sum(tensor.nbytes for tensor in here.tensors)
    assert found.nbytes >= sum(seen)
    sent = hub.storage.sent
    assert find(f"{NAME}:{quantization}").manifest() == here
    assert hub.storage.sent == sent


def test_it_is_read_once_and_no_weights_stay_here(hub, find, own_cache, monkeypatch):
    monkeypatch.setattr(gguf_index, "_FIRST_BYTES", 1 << 10)
    manifest = find(f"hf:{NAME}:Q4_K_M").manifest()
    weights = sum(tensor.nbytes for tensor in manifest.tensors)
    heads = hub.storage.sent - weights
    assert 0 < heads < 0.1 * weights
    kept = sum(file.stat().st_size for file in own_cache.rglob("*.gguf"))
    assert 0 < kept < heads


@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_K_M"])
def test_llama_cpp_reads_the_vocabulary_that_is_kept(hub, folder, find, quantization):
    found = find(f"hf:{NAME}:{quantization}")
    assert not found.path.exists()
    found.manifest()
    there, here = GgufTokenizer(found.path), GgufTokenizer(local(folder, quantization))
    for special in (False, True):
        assert there.encode(TEXT, special=special, bos=True) == here.encode(TEXT, special=special, bos=True)
    assert (there.vocabulary, there.stop_ids, there.eos) == (here.vocabulary, here.stop_ids, here.eos)
    assert there.chat_template == here.chat_template
    found.path.unlink()
    sent = hub.storage.sent
    found.manifest()
    assert found.path.exists()
    assert 0 < hub.storage.sent - sent < found.nbytes


def test_the_vocabulary_of_a_real_model_is_all_there_without_its_weights(smollm2, alice, tmp_path):
    head = read_head(LocalSource(smollm2.parent), smollm2.name)
    (tmp_path / "vocabulary.gguf").write_bytes(head.vocabulary)
    assert head.contents == read_index(smollm2)
    assert len(head.vocabulary) < 0.05 * smollm2.stat().st_size
    there, here = GgufTokenizer(tmp_path / "vocabulary.gguf"), GgufTokenizer(smollm2)
    tokens = here.encode(alice, special=True, bos=True)
    assert there.encode(alice, special=True, bos=True) == tokens
    assert b"".join(map(there.piece, tokens)) == b"".join(map(here.piece, tokens))
    assert (there.vocabulary, there.stop_ids, there.bos, there.eos) == (
        here.vocabulary,
        here.stop_ids,
        here.bos,
        here.eos,
    )
    assert there.chat_template == here.chat_template


@pytest.mark.parametrize("start", [1 << 6, 1 << 10, 1 << 20])
def test_a_head_is_read_in_any_steps(folder, monkeypatch, start):
    monkeypatch.setattr(gguf_index, "_FIRST_BYTES", start)
    path = local(folder, "Q8_0")
    head = read_head(LocalSource(folder), path.name)
    assert head.contents == read_index(path)
    (folder / "head.gguf").write_bytes(head.vocabulary)
    copy, original = GGUFReader(folder / "head.gguf"), GGUFReader(path)
    assert not copy.tensors
    assert {name: field.contents() for name, field in copy.fields.items() if not name.startswith("GGUF.")} == {
        name: field.contents() for name, field in original.fields.items() if not name.startswith("GGUF.")
    }


def test_a_head_without_end_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(gguf_index, "_FIRST_BYTES", 1 << 6)
    monkeypatch.setattr(gguf_index, "_LONGEST_HEAD", 1 << 8)
    with pytest.raises(ModelError, match="has an impossibly large index"):
        read_head(LocalSource(folder), "tiny-Q8_0.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>" * 100])
def test_a_file_on_the_hub_that_is_no_gguf_is_refused(hub, folder, find, content):
    local(folder, "Q8_0").write_bytes(content)
    with pytest.raises(ModelError, match=r"someone/tiny/tiny-Q8_0\.gguf is not a GGUF file") as caught:
        find(f"hf:{NAME}:Q8_0").manifest()
    check_sentence(caught.value)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_part_on_the_hub_is_named(hub, folder, find, missing):
    part = parts_of(local(folder, "Q4_K_M").name)[missing]
    (folder / "Q4_K_M" / part).unlink()
    with pytest.raises(ModelError, match=f"{hub.url}/{NAME}/Q4_K_M/{part} is missing, and without it the model"):
        find(f"hf:{NAME}:Q4_K_M").manifest()
    assert not hub.storage.sent


@pytest.mark.parametrize("text", [NAME, f"hf:{NAME}", f"https://huggingface.co/{NAME}"])
def test_what_is_left_open_is_asked_for(hub, text):
    with pytest.raises(ModelError) as caught:
        find_model(text)
    assert f"{NAME} has several quantizations: choose from Q8_0 (1." in str(caught.value)
    assert str(caught.value).endswith(f" MB), as in hf:{NAME}:Q8_0.")


def test_a_name_of_a_branch_is_asked_for(hub, folder, find):
    hub.branches += ["refs/pr/7"]
    assert find(f"hf:{NAME}:Q8_0", "refs/pr/7").manifest() == open_model(local(folder, "Q8_0"))
    assert find(f"https://huggingface.co/{NAME}/blob/{hub.revision}/tiny-Q8_0.gguf").file == "tiny-Q8_0.gguf"
    with pytest.raises(ModelError, match=f"gives no model {NAME}: it answers 404"):
        find_model(f"hf:{NAME}:Q8_0", "v9")
    with pytest.raises(ModelError, match="is a path, and only models on the hub have revisions"):
        find_model(str(local(folder, "Q8_0")), "v9")


def test_a_model_in_its_own_format_has_a_revision_too(hub, find):
    hub.folder = hub.storage.folder = write_tiny_hf(hub.folder.parent / "hf")
    hub.branches += ["old"]
    assert find(NAME, "old").manifest().digest == open_model(hub.folder).digest


# Nodes, which the coordinator sends to the hub


@pytest.fixture
def node(hub, find) -> Iterator:
    """A node's source for a model on the hub, and that model."""
    manifest, found = find(f"hf:{NAME}:Q4_K_M").manifest(), find(f"hf:{NAME}:Q4_K_M")

    def answer(path: str, _: str) -> Reply:
        if path == "/manifest":
            return Reply(manifest.encode())
        assert found.hub is not None
        return Reply(b"", 307, {"Location": found.hub.url(path.removeprefix("/files/"))})

    with Hostile("", answer).running() as url, closing(CoordinatorSource(url, "ticket")) as source:
        hub.shown.clear()
        hub.storage.sent = 0
        hub.storage.ranges.clear()
        yield source


def test_two_nodes_fetch_their_ranges_from_the_hub_and_no_more(hub, folder, node, tmp_path):
    manifest = node.manifest()
    for span in (Span(0, 2), Span(3, 5)):
        before, (header, pieces) = hub.storage.sent, plan_span(manifest, span)
        hub.storage.break_after = download_size(pieces) // 2 + 1000  # in the middle of a tensor
        write_span_file(tmp_path / f"{span}.gguf", header, pieces, node, lambda _: None)
        assert hub.storage.sent - before == download_size(pieces)
        source = LocalSource(folder / "Q4_K_M")
        write_span_file(tmp_path / "local.gguf", header, pieces, source, lambda _: None)
        assert (tmp_path / f"{span}.gguf").read_bytes() == (tmp_path / "local.gguf").read_bytes()
        (tmp_path / "local.gguf").unlink()
    assert hub.storage.sent == sum(tensor.nbytes for tensor in manifest.tensors)
    assert {name for name, _, _ in hub.storage.ranges} == {f"Q4_K_M/{file}" for file in manifest.files}
    assert "Bearer ticket" not in hub.shown


def test_a_flipped_byte_on_the_hub_is_found_and_named(folder, node, tmp_path):
    manifest = node.manifest()
    second = parts_of(local(folder, "Q4_K_M").name)[1]
    victim = next(tensor for tensor in manifest.tensors if tensor.file == second and tensor.layer is not None)
    content = bytearray((folder / "Q4_K_M" / second).read_bytes())
    content[victim.offset + victim.nbytes // 2] ^= 1
    (folder / "Q4_K_M" / second).write_bytes(content)
    header, pieces = plan_span(manifest, Span(victim.layer, victim.layer))
    with pytest.raises(IntegrityError, match=f"Tensor {victim.name} of {second} arrived twice with the wrong SHA-256"):
        write_span_file(tmp_path / "span.gguf", header, pieces, node, lambda _: None)


# Gated models


@pytest.fixture
def gated(folder, monkeypatch) -> Iterator[Hub]:
    with Hub(folder, "hf_friend").running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


def test_a_token_opens_a_gated_model_and_is_shown_to_nobody_but_the_hub(gated, folder, find, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_friend")
    assert find(f"hf:{NAME}:Q8_0").manifest() == open_model(local(folder, "Q8_0"))
    assert set(gated.shown) == {"Bearer hf_friend"}
    assert set(gated.storage.shown) <= {""}


def test_a_stored_token_does_too(gated, folder, find, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("hf_friend\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert find(f"hf:{NAME}:Q8_0").manifest() == open_model(local(folder, "Q8_0"))


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", f"The hub shows {NAME} to nobody without a token: check the name, accept the model's conditions at "),
        ("hf_other", f"The hub does not let this machine's token read {NAME}: check the name, and accept"),
    ],
)
@pytest.mark.parametrize("hidden", [False, True])
def test_without_the_right_token_there_is_advice(folder, find, monkeypatch, token, sentence, hidden):
    monkeypatch.setenv("HF_TOKEN", token)
    with Hub(folder, "hf_friend", hidden=hidden).running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        with pytest.raises(ModelError) as caught:
            find(f"hf:{NAME}:Q8_0").manifest()
    assert str(caught.value).startswith(sentence)
    assert f"{hub.url}/{NAME}" in str(caught.value)
    check_sentence(caught.value)


def test_a_refusal_of_the_storage_is_not_taken_for_one_of_the_hub(hub, find):
    hub.storage.ticket = "another"
    with pytest.raises(ModelError, match=r"answers 401 to a request for a part of tiny-Q8_0\.gguf"):
        find(f"hf:{NAME}:Q8_0").manifest()


def test_a_token_that_is_none_is_refused(gated, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_🥗")
    with pytest.raises(ModelError, match="The token for the hub is none: set HF_TOKEN"):
        find_model(f"hf:{NAME}:Q8_0")


def redirecting(location: str) -> Hostile:
    return Hostile("", lambda *_: Reply(b"", 307, {"Location": location}))


def test_a_node_shows_its_own_token_to_its_own_hub(gated, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_friend")
    file = f"{gated.url}/{NAME}/resolve/{gated.revision}/tiny-Q8_0.gguf"
    with redirecting(file).running() as url, closing(CoordinatorSource(url, "ticket")) as source:
        assert b"".join(source.stream("tiny-Q8_0.gguf", 0, 4)) == b"GGUF"
    assert gated.shown == ["Bearer hf_friend"]
    assert gated.storage.shown == [""]


@pytest.mark.parametrize(
    ("token", "said"), [("", "without a token"), ("hf_other", "does not let this machine's token")]
)
def test_a_node_that_may_not_have_a_gated_model_says_so(gated, monkeypatch, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    file = f"{gated.url}/{NAME}/resolve/{gated.revision}/tiny-Q8_0.gguf"
    with (
        redirecting(file).running() as url,
        closing(CoordinatorSource(url, "ticket")) as source,
        pytest.raises(ModelError, match=said) as caught,
    ):
        list(source.stream("tiny-Q8_0.gguf", 0, 4))
    check_sentence(caught.value)


COMMIT = "0123456789" * 4
OURS = "https://huggingface.co"


@pytest.mark.parametrize(
    "url",
    [
        f"https://evil.example/a/b/resolve/{COMMIT}/m.gguf",
        f"https://huggingface.co.evil.example/a/b/resolve/{COMMIT}/m.gguf",
        f"https://huggingface.co@evil.example/a/b/resolve/{COMMIT}/m.gguf",
        f"https://huggingface.co:8443/a/b/resolve/{COMMIT}/m.gguf",
        f"http://huggingface.co/a/b/resolve/{COMMIT}/m.gguf",
        f"{OURS}/settings/tokens",
        f"{OURS}/a/b/resolve/main/m.gguf",
        f"{OURS}/api/models/a/b/resolve/{COMMIT}/m.gguf",
        f"{OURS}/a/b/resolve/{COMMIT}/../../../../settings/tokens",
        f"{OURS}/a/b/resolve/{COMMIT}/%2e%2e/%2e%2e/settings",
        f"{OURS}/a/b/resolve/{COMMIT}/",
        f"{OURS}/a/b/resolve/{COMMIT}/.env",
        f"{OURS}/a/b/resolve/{COMMIT}/secrets.txt?name=m.gguf",
    ],
)
def test_a_token_is_for_the_files_of_the_hub_only(monkeypatch, url):
    monkeypatch.setattr(constants, "ENDPOINT", OURS)
    assert repository_of(httpx.URL(url)) is None
    assert repository_of(httpx.URL(f"{OURS}/a/b/resolve/{COMMIT}/Q4_0/m.gguf")) == "a/b"


def test_the_token_of_a_node_goes_to_no_other_server(gated, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_friend")
    with Hub(folder).running() as other:
        file = f"{other.url}/{NAME}/resolve/{other.revision}/tiny-Q8_0.gguf"
        with redirecting(file).running() as url, closing(CoordinatorSource(url, "ticket")) as source:
            assert b"".join(source.stream("tiny-Q8_0.gguf", 0, 4)) == b"GGUF"
        assert other.shown == [""]
