"""The sources of a model's bytes: files on this machine, or HTTP ranges from the coordinator or the hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import time
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from huggingface_hub import constants, get_token, hf_hub_url
from platformdirs import user_cache_path

from potluck.errors import ModelError, TicketExpired
from potluck.models import gguf, huggingface
from potluck.models.files import FileSource, LocalSource, Progress, read_whole
from potluck.models.manifest import Manifest

__all__ = ["CoordinatorSource", "HubSource", "LocalSource", "cache_folder", "local_source", "open_hub", "open_model"]

_TRIES = 6
_FIRST_PAUSE_S = 0.5
_BUSY = (429, 500, 502, 503, 504)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SMALL_FILES = (".json", ".jinja")
_MODEL_FILES = (".json", ".safetensors", ".bin")


def cache_folder() -> Path:
    """The folder of manifests and span files: `POTLUCK_CACHE`, or the user's cache folder."""
    override = os.environ.get("POTLUCK_CACHE")
    return Path(override) if override else user_cache_path("potluck")


def open_model(path: Path, progress: Progress = lambda _: None) -> Manifest:
    """The manifest of a model on this machine: a GGUF file, or a Hugging Face directory.

    The files are hashed once for each state that they are in. Raises ModelError, with advice, when there is no model.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist.")
    saved = _saved_manifest(_state(path))
    if saved.exists():
        return Manifest.decode(saved.read_bytes())
    if path.is_dir():
        manifest = huggingface.read_manifest(LocalSource(path), path.resolve().name, progress)
    else:
        manifest = gguf.read_manifest(path, progress)
    _save(saved, manifest)
    return manifest


@dataclass(frozen=True)
class Found:
    """A model to serve. path: its file or directory here; for a model on the hub, everything but its weights."""

    path: Path
    hub: HubSource | None = None

    def manifest(self, progress: Progress = lambda _: None) -> Manifest:
        """The manifest. Raises ModelError when this is not a model."""
        return open_model(self.path, progress) if self.hub is None else open_hub(self.hub, progress)


def find_model(text: str) -> Found:
    """Find a model by its path, or else as a repository of the hub such as `EleutherAI/gpt-neox-20b`.

    Raises ModelError when the hub does not have it either.
    """
    path = Path(text)
    if path.exists() or not _REPOSITORY.fullmatch(text):
        return Found(path)
    try:
        hub = HubSource(text)
    except ModelError as error:
        raise ModelError(f"{text} is not a path here, and {str(error)[:1].lower()}{str(error)[1:]}") from error
    folder = cache_folder() / "hub" / text / hub.revision
    for file in hub.names():
        if file.endswith(_SMALL_FILES) and "/" not in file and not (folder / file).exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(read_whole(hub, file))
    return Found(folder, hub)


def weights_size(model: Path) -> int:
    """The bytes of a model's weights on this machine; 0 if they are elsewhere."""
    files = [file for file in (model.iterdir() if model.is_dir() else [model]) if file.is_file()]
    weights = {file.suffix for file in files} & {".gguf", ".safetensors"} or {".bin"}
    return sum(file.stat().st_size for file in files if file.suffix in weights)


def local_source(path: Path) -> LocalSource:
    """The files of the model that `open_model` opens at this path."""
    return LocalSource(path if path.is_dir() else path.parent)


def open_hub(source: HubSource, progress: Progress = lambda _: None) -> Manifest:
    """The manifest of a Hugging Face model on the hub. Its weights pass through once to be hashed; none are kept."""
    saved = _saved_manifest(f"{source.location}|{source.revision}")
    if saved.exists():
        return Manifest.decode(saved.read_bytes())
    manifest = huggingface.read_manifest(source, source.repository.rpartition("/")[2], progress)
    _save(saved, manifest)
    return manifest


def _state(path: Path) -> str:
    """A line that differs whenever one of the model's files has changed."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in _MODEL_FILES)
    stats = [(file.name, file.stat()) for file in files if file.exists()]
    return "|".join([str(path.resolve()), *(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)])


def _saved_manifest(state: str) -> Path:
    return cache_folder() / "manifests" / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.json"


def _save(path: Path, manifest: Manifest) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(manifest.encode())
    fresh.replace(path)


class _HttpSource(FileSource):
    """Byte ranges over HTTP. After a broken connection, the download continues where it stopped."""

    def __init__(self, client: httpx.Client, server: str) -> None:
        self._client = client
        self._server = server
        self._pause_s = _FIRST_PAUSE_S
        client.headers["Accept-Encoding"] = "identity"  # ranges count the file's own bytes

    @abstractmethod
    def url(self, file: str) -> str: ...

    def _get(self, url: str, what: str) -> bytes:
        try:
            reply = self._client.get(url)
        except httpx.HTTPError as error:
            raise ModelError(f"{self._server} gives no {what}: {error}.") from error
        if reply.status_code != 200:
            raise ModelError(f"{self._server} gives no {what}: it answers {reply.status_code}.")
        return reply.content

    def stream(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        """Stream the bytes, in a few tries with growing pauses. Raises ModelError when all of them fail."""
        failures = 0
        while nbytes:
            try:
                for chunk in self._range(file, offset, nbytes):
                    offset += len(chunk)
                    nbytes -= len(chunk)
                    failures = 0
                    yield chunk
            except httpx.TransportError as error:
                failures += 1
                if failures == _TRIES:
                    raise ModelError(f"The download of {file} broke {_TRIES} times: {error}.") from error
                time.sleep(self._pause_s * 2**failures)

    def _range(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        wanted = {"Range": f"bytes={offset}-{offset + nbytes - 1}"}
        with self._client.stream("GET", self.url(file), headers=wanted) as reply:
            if reply.status_code in _BUSY:
                raise httpx.RemoteProtocolError(f"{self._server} answers {reply.status_code}")
            if reply.status_code != 206:
                raise ModelError(f"{self._server} answers {reply.status_code} to a request for a part of {file}.")
            for chunk in reply.iter_raw():  # as they come: what arrived before a break is kept
                yield chunk[:nbytes]
                nbytes -= len(chunk[:nbytes])
            # A reply cut short raises httpx.RemoteProtocolError, a TransportError.
        if nbytes:
            raise ModelError(f"{self._server} gives {nbytes} bytes too few of {file}.")

    def close(self) -> None:
        self._client.close()


class CoordinatorSource(_HttpSource):
    """The model's files as the coordinator at `url` serves them: `GET /files/NAME` with a Range header.

    If the model is on the hub, the coordinator does not serve its files but says where they are.
    ticket: the one from the welcome. httpx does not send it to another server.
    Raises TicketExpired when the coordinator no longer knows it.
    """

    def __init__(self, url: str, ticket: str = "") -> None:
        trusted = ssl.create_default_context()  # what the node's web-socket trusts, not httpx's own list
        headers = {"Authorization": f"Bearer {ticket}"} if ticket else {}
        client = httpx.Client(base_url=url, headers=headers, timeout=60.0, follow_redirects=True, verify=trusted)
        client.event_hooks = {"response": [_check_ticket]}
        super().__init__(client, "The coordinator")

    def manifest(self) -> Manifest:
        return Manifest.decode(self._get("/manifest", "manifest"))

    def url(self, file: str) -> str:
        return f"/files/{file}"


def _check_ticket(reply: httpx.Response) -> None:
    if reply.status_code == 401 and "Authorization" in reply.request.headers:
        raise TicketExpired("The coordinator does not know this node's ticket any more.")


class HubSource(_HttpSource):
    """The files of a repository on the Hugging Face hub, at one commit. Implements `potluck.models.files.Files`.

    endpoint: another hub than `HF_ENDPOINT`. The token that `hf auth login` has stored opens gated models.
    Raises ModelError when the hub does not give the list of files.
    """

    def __init__(self, repository: str, revision: str = "main", endpoint: str | None = None) -> None:
        self.repository = repository
        self._endpoint = endpoint or constants.ENDPOINT
        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(headers=headers, timeout=60.0, follow_redirects=True)
        super().__init__(client, f"The hub at {self._endpoint}")
        try:
            self.revision, self._sizes = self._listing(revision)
        except ModelError:
            client.close()
            raise

    def _listing(self, revision: str) -> tuple[str, dict[str, int]]:
        """The commit that the revision is now, and the size of each file."""
        url = f"{self._endpoint}/api/models/{self.repository}/revision/{revision}?blobs=true"
        try:
            listing = json.loads(self._get(url, f"model {self.repository}"))
            return str(listing["sha"]), {each["rfilename"]: int(each["size"]) for each in listing["siblings"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self._server} gives no list of the files of {self.repository}.") from error

    @property
    def location(self) -> str:
        return f"{self._endpoint}/{self.repository}"

    def size(self, file: str) -> int | None:
        return self._sizes.get(file)

    def names(self) -> list[str]:
        return list(self._sizes)

    def url(self, file: str) -> str:
        return hf_hub_url(self.repository, file, revision=self.revision, endpoint=self._endpoint)
