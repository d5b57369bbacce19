"""Takes a model's bytes over HTTP from servers that may be hostile: the coordinator, or the Hugging Face hub."""

from __future__ import annotations

import logging
import re
import ssl
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import copy
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx

from potluck.errors import ModelError, TicketExpired, WeightsAway
from potluck.models import hub
from potluck.models.files import FileSource, parse_json
from potluck.models.manifest import Manifest
from potluck.models.redirects import Redirects
from potluck.models.vetting import MOST_BYTES, decode
from potluck.network import http_client

log = logging.getLogger(__name__)

_TRIES = 6
_FIRST_PAUSE_S = 0.5
_BUSY = (429, 500, 502, 503, 504)
_MOST_HOPS = 5
_LONGEST_REDIRECT = 1 << 14
_LONGEST_REASON = 1 << 10
_AWAY = 4
"""The first pauses that pass until weights that are away are asked for again."""
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_LONGEST_LISTING = 64 << 20

_LEAST_BYTES = 1 << 18
_LEAST_S = 60.0
"""A reply that brings fewer bytes than this in this time counts as a broken connection."""


class Pace:
    """Notices a reply that trickles. `now` is a clock's time in seconds."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._bytes = 0

    def keeps(self, nbytes: int, now: float) -> bool:
        """Whether the reply, which has just brought these bytes, is still fast enough."""
        self._bytes += nbytes
        if self._bytes >= _LEAST_BYTES:
            self._since, self._bytes = now, 0
        return now - self._since <= _LEAST_S


class _HttpSource(FileSource):
    """Byte ranges over HTTP. After a broken connection, the download continues where it stopped.

    redirects: where the server may redirect to; None means anywhere.
    """

    def __init__(self, client: httpx.Client, server: str, redirects: Redirects | None = None) -> None:
        self._client = client
        self._server = server
        self._redirects = redirects
        self._pause_s = _FIRST_PAUSE_S
        self._away = ""
        """Why nothing comes now."""
        client.headers["Accept-Encoding"] = "identity"  # ranges count the file's own bytes

    @abstractmethod
    def url(self, file: str) -> str: ...

    @contextmanager
    def _reply(self, url: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
        """The reply, of which only the head has been read, after all redirects."""
        request = self._client.build_request("GET", url, headers=headers)
        for _ in range(_MOST_HOPS):
            with closing(self._client.send(request, stream=True)) as reply:
                if reply.next_request is None:
                    yield reply
                    return
                request = reply.next_request
                self._drain(reply)
            if self._redirects is not None:
                self._redirects.check(request.url)
                request.extensions = {**request.extensions, "trace": self._redirects.watch(request.url)}
                if hub.repository_of(request.url) is not None:  # each person's own token opens gated models
                    request.headers.update(hub.authorization())
        raise ModelError(f"{self._server} redirects more than {_MOST_HOPS} times.")

    def _drain(self, reply: httpx.Response) -> None:
        """Read the few bytes of a redirect, so that the connection can be used again."""
        pace, left = Pace(time.monotonic()), _LONGEST_REDIRECT
        for chunk in reply.iter_raw():
            left -= len(chunk)
            if left < 0 or not pace.keeps(len(chunk), time.monotonic()):
                return

    def _chunks(self, reply: httpx.Response, most: int, what: str) -> Iterator[bytes]:
        """The body as it comes. Raises ModelError if it is compressed or has more bytes than `most`."""
        if reply.headers.get("Content-Encoding", "identity") != "identity":
            raise ModelError(f"{self._server} compresses {what}, although it was asked not to.")
        pace = Pace(time.monotonic())
        for chunk in reply.iter_raw():
            most -= len(chunk)
            if most < 0:
                raise ModelError(f"{self._server} sends more bytes of {what} than there can be.")
            if not pace.keeps(len(chunk), time.monotonic()):
                raise httpx.ReadTimeout(f"{what} comes too slowly")
            yield chunk

    def _get(self, url: str, what: str, most: int) -> bytearray:
        body = bytearray()
        try:
            with self._reply(url) as reply:
                if reply.status_code != 200:
                    self._check_permission(reply)
                    raise ModelError(f"{self._server} gives no {what}: it answers {reply.status_code}.")
                for chunk in self._chunks(reply, most, f"the {what}"):
                    body += chunk
        except httpx.HTTPError as error:
            raise ModelError(f"{self._server} gives no {what}: {error}.") from error
        return body

    def stream(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        """Stream the bytes, in a few tries with growing pauses. Raises ModelError when all of them fail."""
        failures = arrived = 0
        while nbytes:
            try:
                for chunk in self._range(file, offset, nbytes):
                    self._note("")
                    offset += len(chunk)
                    nbytes -= len(chunk)
                    arrived += len(chunk)
                    if arrived >= _LEAST_BYTES:
                        failures = 0
                    yield chunk
            except WeightsAway as error:  # which is no fault of the line: it may take hours until they are back
                self._note(str(error))
                time.sleep(_AWAY * self._pause_s)
            except httpx.TransportError as error:
                failures += 1
                arrived = 0
                if failures == _TRIES:
                    raise ModelError(f"The download of {file} broke {_TRIES} times: {error}.") from error
                time.sleep(self._pause_s * 2**failures)

    def _note(self, reason: str) -> None:
        """Tell the owner why nothing comes, and when something does again."""
        if reason and not self._away:
            log.warning("%s Waiting for it.", reason)
        elif self._away and not reason:
            log.info("The download goes on.")
        self._away = reason

    def _reason(self, reply: httpx.Response) -> str:
        """Why the server gives nothing now, if it may later and says so; else ""."""
        return ""

    def _range(self, file: str, offset: int, nbytes: int) -> Iterator[bytes]:
        wanted = {"Range": f"bytes={offset}-{offset + nbytes - 1}"}
        with self._reply(self.url(file), wanted) as reply:
            if reason := self._reason(reply):
                raise WeightsAway(reason)
            if reply.status_code in _BUSY:
                raise httpx.RemoteProtocolError(f"{self._server} answers {reply.status_code}")
            if reply.status_code != 206:
                self._check_permission(reply)
                raise ModelError(f"{self._server} answers {reply.status_code} to a request for a part of {file}.")
            for chunk in self._chunks(reply, nbytes, file):  # what arrived before a break is kept
                yield chunk
                nbytes -= len(chunk)
            # A reply cut short raises httpx.RemoteProtocolError, a TransportError.
        if nbytes:
            raise ModelError(f"{self._server} sends {nbytes} bytes too few of {file}.")

    def _check_permission(self, reply: httpx.Response) -> None:
        """Raises ModelError, with advice, if the hub gives the model only to those who may have it."""
        repository = self._repository_of(reply.request.url)
        if repository is not None and reply.status_code in (401, 403):
            raise hub.refusal(repository, with_token="Authorization" in reply.request.headers)

    def _repository_of(self, url: httpx.URL) -> str | None:
        """The repository on the hub that a request was about; None if it went elsewhere."""
        return hub.repository_of(url)

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
        client = http_client(base_url=url, headers=headers, timeout=60.0, verify=trusted)
        client.event_hooks = {"response": [partial(_check_ticket, headers.get("Authorization"))]}
        super().__init__(client, "The coordinator", Redirects(client.base_url))

    def manifest(self) -> Manifest:
        """The model's manifest. Raises ModelError when the coordinator gives none, or one that cannot be true."""
        return decode(self._get("/manifest", "manifest", MOST_BYTES))

    def url(self, file: str) -> str:
        return f"/files/{quote(file, safe='')}"

    def _reason(self, reply: httpx.Response) -> str:
        if reply.status_code != 503 or reply.headers.get("Content-Type") != "application/json":
            return ""
        try:
            told = parse_json(b"".join(self._chunks(reply, _LONGEST_REASON, "its reason")))
            return "".join(filter(str.isprintable, told["error"]["message"]))
        except (ModelError, ValueError, KeyError, TypeError):
            return ""


def _check_ticket(shown: str | None, reply: httpx.Response) -> None:
    if reply.status_code == 401 and shown is not None and reply.request.headers.get("Authorization") == shown:
        raise TicketExpired("The coordinator no longer knows this node's ticket.")


class HubSource(_HttpSource):
    """The files of a repository on the Hugging Face hub, at one commit. Implements `potluck.models.files.Files`.

    revision: a branch, a tag or a commit. endpoint: a hub other than `HF_ENDPOINT`.
    This machine's token for the hub opens gated models. Files are named relative to `folder`.
    Raises ModelError when the hub does not give the list of files.
    """

    folder = ""

    def __init__(self, repository: str, revision: str = "main", endpoint: str | None = None) -> None:
        self.repository = repository
        self._endpoint = endpoint or hub.endpoint()
        client = http_client(headers=hub.authorization(), timeout=60.0)
        super().__init__(client, f"The hub at {self._endpoint}")
        try:
            self.revision, self.sizes = self._listing(revision)
        except ModelError:
            client.close()
            raise

    def within(self, folder: str) -> HubSource:
        """The same for the files in a folder of the repository. The two share a connection."""
        inner = copy(self)
        inner.folder = f"{folder}/" if folder else ""
        return inner

    def _listing(self, revision: str) -> tuple[str, dict[str, int]]:
        """The commit that the revision is now, and the size of each file in the repository."""
        url = f"{self._endpoint}/api/models/{self.repository}/revision/{quote(revision, safe='')}?blobs=true"
        try:
            listing = parse_json(self._get(url, f"model {self.repository}", _LONGEST_LISTING))
            sizes = {each["rfilename"]: each["size"] for each in listing["siblings"]}
            if not _COMMIT.fullmatch(listing["sha"]) or not all(map(_is_size, sizes.items())):
                raise ValueError("no commit, or no list of files")
            return listing["sha"], sizes
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self._server} gives no list of the files in {self.repository}.") from error

    def _repository_of(self, url: httpx.URL) -> str | None:
        return self.repository if url.netloc == httpx.URL(self._endpoint).netloc else None

    @property
    def location(self) -> str:
        return f"{self._endpoint}/{self.repository}/{self.folder}".rstrip("/")

    def size(self, file: str) -> int | None:
        return self.sizes.get(self.folder + file)

    def url(self, file: str) -> str:
        return f"{self._endpoint}/{self.repository}/resolve/{self.revision}/{quote(self.folder + file)}"


def _is_size(entry: tuple[Any, Any]) -> bool:
    """Whether this is the name of a file and the number of its bytes."""
    name, nbytes = entry
    return isinstance(name, str) and type(nbytes) is int and nbytes >= 0
