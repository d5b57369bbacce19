"""Takes a model's tensors from the coordinator and from other nodes that hold them, whichever is faster."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Annotated

import httpx
import msgspec
from msgspec import Meta

from potluck.errors import ModelError
from potluck.models.manifest import Tensor
from potluck.models.sources import CoordinatorSource

log = logging.getLogger(__name__)

_TIMEOUT = httpx.Timeout(5.0, connect=2.0)
_LONGEST_LIST = 1 << 21
_MOST_PEERS = 8
"""The most nodes that are asked, because each has a thread and a connection, and the coordinator names them."""
_Sha256 = Annotated[str, Meta(min_length=64, max_length=64)]

_SAMPLE = 1 << 18
"""The bytes of a sample. A smaller piece takes one round trip from anyone and says nothing about the speed."""
_FIRST_BLOCK = 1 << 21
_LARGEST_BLOCK = 1 << 26
_BLOCK_S = 2.0
_LONGEST_BLOCK_S = 4.0
"""A block should take two seconds. One that takes four is broken off, and the rest is requested anew."""
_TRIES = 5


class Supplier(ABC):
    """A machine that can be asked for tensors. rate: its bytes a second, None before it is measured."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self.rests_until = 0.0
        self._failures = 0

    @abstractmethod
    def read(self, tensor: Tensor, start: int, nbytes: int) -> Generator[bytes, None, None]:
        """Read these bytes of the tensor. Raises ModelError when they cannot be read."""

    def note(self, nbytes: int, seconds: float) -> None:
        """Note that it gave this number of bytes in this time."""
        rate = nbytes / max(seconds, 1e-6)
        self.rate = rate if self.rate is None else (self.rate + rate) / 2

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, now: float) -> None:
        """Leave it alone, longer each time in a row, and finally for good."""
        self._failures += 1
        self.rests_until = now + 2**self._failures if self._failures < _TRIES else math.inf


class Coordinator(Supplier):
    """The supplier that has everything."""

    def __init__(self, source: CoordinatorSource) -> None:
        super().__init__()
        self._source = source

    def read(self, tensor: Tensor, start: int, nbytes: int) -> Generator[bytes, None, None]:
        yield from self._source.stream(tensor.file, tensor.offset + start, nbytes)


class Peer(Supplier):
    """Another node, at `url`. tensors: the SHA-256 of those that it holds."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__()
        self.url = url
        self.tensors: frozenset[str] = frozenset()
        self._headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._client = self._connect()

    def _connect(self) -> httpx.Client:
        # A proxy of this machine's settings is for the wide world, and shall not see the token.
        return httpx.Client(base_url=self.url, headers=self._headers, timeout=_TIMEOUT, trust_env=False)

    def greet(self) -> None:
        """Learn what it holds. A peer that cannot be reached, for example behind a firewall, holds nothing."""
        try:
            with self._connect() as client, client.stream("GET", "/tensors") as reply:
                listing = bytearray()
                for chunk in reply.iter_raw():
                    listing += chunk
                    if len(listing) > _LONGEST_LIST:
                        return
            self.tensors = frozenset(
                msgspec.json.decode(listing, type=list[_Sha256]) if reply.status_code == 200 else ()
            )
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            log.debug("The node at %s lists no tensors: %s.", self.url, error)

    def read(self, tensor: Tensor, start: int, nbytes: int) -> Generator[bytes, None, None]:
        wanted = {"Range": f"bytes={start}-{start + nbytes - 1}"}
        try:
            with self._client.stream("GET", f"/tensors/{tensor.sha256}", headers=wanted) as reply:
                if reply.status_code != 206:
                    raise ModelError(f"The node at {self.url} answers {reply.status_code}.")
                for chunk in reply.iter_raw():
                    if len(chunk) > nbytes:
                        raise ModelError(f"The node at {self.url} gives more of {tensor.name} than was asked for.")
                    yield chunk
                    nbytes -= len(chunk)
        except httpx.HTTPError as error:
            raise ModelError(f"The node at {self.url} does not give {tensor.name}: {error}.") from error
        if nbytes:
            raise ModelError(f"The node at {self.url} gives {nbytes} bytes too few of {tensor.name}.")

    def drop(self) -> None:
        """Never ask it again."""
        self.rests_until = math.inf

    def close(self) -> None:
        self._client.close()


class PeerSource:
    """Takes tensors from the coordinator and from nodes, in blocks, each from the fastest. Implements `Source`.

    Everyone is tried once, with a block that is used. Peers are an optimisation: what they do not give, or give
    wrongly, comes from the coordinator. Not thread-safe.
    """

    def __init__(self, coordinator: CoordinatorSource, urls: Sequence[str], token: str) -> None:
        self._coordinator = Coordinator(coordinator)
        self._peers = [Peer(url, token) for url in random.sample(urls, min(len(urls), _MOST_PEERS))]
        self._greeted = False
        self._giver: Peer | None = None
        self._resumed = False
        self._suspect: Tensor | None = None

    def fetch(self, tensor: Tensor, start: int = 0) -> Iterator[bytes]:
        self._greet()
        self._giver, self._resumed = None, start > 0
        while start < tensor.nbytes:
            supplier = choose(self._candidates(tensor), tensor.nbytes - start)
            for chunk in self._block(supplier, tensor, start):
                start += len(chunk)
                yield chunk

    def distrust(self, tensor: Tensor) -> None:
        self._suspect = tensor
        if self._giver is not None and not self._resumed:  # else the bytes from before may be the wrong ones
            log.warning("The node at %s gave wrong bytes of %s and is not asked again.", self._giver.url, tensor.name)
            self._giver.drop()

    def _greet(self) -> None:
        """Greet the peers in the background, because nobody should wait for peers that may be out of reach."""
        if not self._greeted:
            self._greeted = True
            for peer in self._peers:
                threading.Thread(target=peer.greet, name="potluck-greet", daemon=True).start()

    def _candidates(self, tensor: Tensor) -> list[Supplier]:
        """The coordinator first. At most one peer gives bytes of a tensor, so that it is known which one gave wrong
        ones.
        """
        if tensor == self._suspect:
            return [self._coordinator]
        now = time.monotonic()
        peers = self._peers if self._giver is None else [self._giver]
        able = [peer for peer in peers if tensor.sha256 in peer.tensors and peer.rests_until <= now]
        return [self._coordinator, *able]

    def _block(self, supplier: Supplier, tensor: Tensor, start: int) -> Iterator[bytes]:
        """The supplier's next block; less than that if it fails or takes too long."""
        done, seconds, since = 0, 0.0, time.perf_counter()
        try:
            with closing(supplier.read(tensor, start, block_bytes(supplier.rate, tensor.nbytes - start))) as chunks:
                for chunk in chunks:
                    seconds += time.perf_counter() - since
                    done += len(chunk)
                    if isinstance(supplier, Peer):
                        self._giver = supplier
                    yield chunk
                    if seconds > _LONGEST_BLOCK_S:
                        break
                    since = time.perf_counter()  # what the taker needed does not count
            supplier.succeeded()
        except ModelError:
            if supplier is self._coordinator:
                raise
            supplier.failed(time.monotonic())
        if done >= _SAMPLE or seconds > _LONGEST_BLOCK_S:
            supplier.note(done, seconds)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


def choose(candidates: Sequence[Supplier], nbytes: int) -> Supplier:
    """The supplier to ask for this number of bytes of a tensor: one that is not measured yet, or else the fastest."""
    unmeasured = [each for each in candidates if each.rate is None]
    if unmeasured and nbytes >= _SAMPLE:
        return unmeasured[0]
    return max(candidates, key=lambda each: each.rate or 0.0)  # of equals the first


def block_bytes(rate: float | None, left: int) -> int:
    """The number of bytes to request at once from a supplier with this rate in bytes a second."""
    if rate is None:
        return min(left, _FIRST_BLOCK)
    return min(left, max(_SAMPLE, min(int(rate * _BLOCK_S), _LARGEST_BLOCK)))
