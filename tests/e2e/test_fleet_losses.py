"""Everything that a fleet consists of is killed in turns while it answers: no answer is lost, and none changes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy import create_engine, text

from kit.local_fleet import LocalFleet, Member
from kit.processes import free_port
from kit.proxy import Proxy
from kit.waiting import eventually
from potluck.client import Client
from potluck.errors import PotluckError
from potluck.local import Process

STREAMS, TOKENS, LAYERS = 12, 300, 6
DOWN_S, UP_S = 3.0, 3.0
"""Seconds for which something is away, and until the next thing is killed."""


def question(seed: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Who brings dish {seed}?"}]


OPTIONS: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0.8}


def answers(client: Client, streams: int) -> dict[int, str]:
    """The undisturbed answer of each stream, by its seed."""
    return {seed: "".join(client.stream_chat("tiny", question(seed), seed=seed, **OPTIONS)) for seed in range(streams)}


class Asking:
    """Streams that ask again and again, at one coordinator after the other, as behind a front that knows which answer.

    expected: the answer for each seed.
    """

    def __init__(self, urls: list[str], key: str, expected: dict[int, str]) -> None:
        self._urls = urls
        self._key = key
        self._expected = expected
        self._ended = threading.Event()
        self.whole = 0
        self.lost: list[str] = []
        self.rows = 0
        """What nodes have computed at least for the answers that are whole, in each layer."""

    def stream(self, seed: int) -> None:
        places = itertools.cycle(self._urls[seed % len(self._urls) :] + self._urls[: seed % len(self._urls)])
        while not self._ended.is_set():
            self._ask(next(places), seed)

    def _ask(self, url: str, seed: int) -> None:
        told, usages = "", list[dict[str, Any]]()
        try:
            stream = Client(url, self._key).stream_chat
            for part in stream("tiny", question(seed), None, usages.append, seed=seed, **OPTIONS):
                told += part
        except PotluckError as error:
            if told:  # whoever was told nothing yet asks elsewhere
                self.lost.append(str(error))
            return
        if told != self._expected[seed]:
            self.lost.append(f"Seed {seed}: {told!r} instead of {self._expected[seed]!r}")
        self.whole += 1
        read = usages[-1]["prompt_tokens"] - usages[-1]["prompt_tokens_details"]["cached_tokens"]
        self.rows += read + usages[-1]["completion_tokens"] - 1  # nothing follows the last one

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(STREAMS) as threads:
            streams = [threads.submit(self.stream, seed) for seed in self._expected]
            try:
                yield
            finally:
                self._ended.set()
            for stream in streams:
                stream.result()


def booked(database: str) -> int:
    """The credits of all accounts and nodes, earned and pending."""
    engine = create_engine(database)
    with engine.connect() as connection:
        earned = connection.execute(text("SELECT COALESCE(SUM(earned), 0) FROM accounts")).scalar_one()
        pending = connection.execute(text("SELECT COALESCE(SUM(pending), 0) FROM nodes")).scalar_one()
    engine.dispose()
    return int(earned) + int(pending)


def opens(url: str, key: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=30).is_success
    except httpx.HTTPError:
        return False


class Disturbances:
    """What is killed and started again."""

    def __init__(self, fleet: LocalFleet, nodes: list[tuple[Member, str, Process]]) -> None:
        self._fleet = fleet
        self._nodes = nodes
        self.repeated = 0
        """How often the streams had to be computed again, at most."""

    @contextmanager
    def coordinator(self, number: int) -> Iterator[None]:
        member = self._fleet.members[number % len(self._fleet.members)]
        member.kill()
        self.repeated += 1
        yield
        member.start()
        eventually(member.answers)

    @contextmanager
    def nats(self, _: int) -> Iterator[None]:
        self._fleet.nats.kill()
        yield
        self._fleet.nats.start()

    @contextmanager
    def postgres(self, _: int) -> Iterator[None]:
        self._fleet.postgres.kill()
        yield
        self._fleet.postgres.start()

    @contextmanager
    def node(self, number: int) -> Iterator[None]:
        place = number % len(self._nodes)
        member, name, process = self._nodes[place]
        process.popen.kill()
        process.wait()
        self.repeated += 1
        yield
        self._nodes[place] = (member, name, self._fleet.add_node(member, name))


def test_nothing_is_lost_whatever_is_killed(fleet: LocalFleet, tiny: Path, nightly: bool) -> None:
    members = fleet.add_all(tiny, 3)
    names = iter(("anna", "ben", "cleo", "dora", "emil", "fred"))
    nodes = [(member, name, fleet.add_node(member, name)) for member in members for name in itertools.islice(names, 2)]
    eventually(lambda: all(member.covered() for member in members))
    fleet.wait_known()
    key, revoked = (members[0].new_key(name) for name in ("anna", "mallory"))
    members[0].revoke("mallory")
    expected = answers(Client(members[0].url, key), STREAMS)
    assert len(set(expected.values())) == STREAMS

    asking, disturbances = Asking([member.url for member in members], key, expected), Disturbances(fleet, nodes)
    begun, let_in, credits = booked(fleet.database), list[str](), list[int]()
    kinds: list[Callable[[int], Any]] = [
        disturbances.coordinator,
        disturbances.nats,
        disturbances.postgres,
        disturbances.node,
    ]
    rounds = 5 if nightly else 1
    with asking.running():
        for number, kind in enumerate(kinds * rounds):
            with kind(number):
                _watch(members, revoked, let_in, DOWN_S)
            _watch(members, revoked, let_in, UP_S)
            credits.append(booked(fleet.database))
    assert asking.lost == []
    assert asking.whole >= STREAMS * rounds
    assert let_in == []

    wait_for_last_write(members)
    credits.append(booked(fleet.database))
    assert credits == sorted(credits)  # nothing that was stored is lost
    served, repeated = asking.rows * LAYERS, disturbances.repeated * STREAMS * (TOKENS + 64) * LAYERS
    assert served <= credits[-1] - begun <= served + repeated  # nor what was not, and nothing is stored twice
    shown = [member.ask("/v1/account").json() for member in members]
    assert shown == [shown[0]] * len(members)


def _watch(members: list[Member], revoked: str, let_in: list[str], seconds: float) -> None:
    """Try a revoked key everywhere for so long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        let_in += [member.url for member in members if opens(member.url, revoked)]


def wait_for_last_write(members: list[Member]) -> None:
    """Wait until no coordinator has anything to store: no answer is under way, and the books were written since."""
    eventually(lambda: all(member.ask("/status").json()["streams"] == 0 for member in members))
    seen = (booked(members[0].fleet.database), time.monotonic())

    def is_settled() -> bool:
        """Whether nothing was stored for much longer than it takes until the books are written."""
        nonlocal seen
        if (now := booked(members[0].fleet.database)) != seen[0]:
            seen = (now, time.monotonic())
        return time.monotonic() - seen[1] > 2.5

    eventually(is_settled)


@contextmanager
def split(*proxies: Proxy) -> Iterator[None]:
    """Nothing passes these proxies meanwhile."""
    ports = [proxy.port for proxy in proxies]
    for proxy in proxies:
        proxy.port = free_port()
        proxy.cut()
    yield
    for proxy, port in zip(proxies, ports, strict=True):
        proxy.port = port


def test_two_halves_of_a_network_go_on_and_find_together(fleet: LocalFleet, tiny: Path, nightly: bool) -> None:
    port = urlsplit(fleet.database).port
    with Proxy(fleet.nats.url).running() as nats, Proxy(f"postgres:{port}").running() as postgres:
        one = fleet.add(tiny)
        way = fleet.database.replace(f":{port}/", f":{postgres.url.rpartition(':')[2]}/")
        two = fleet.add(tiny, nats=nats.url.replace("http", "nats"), database=way)
        nodes = [fleet.add_node(member, name) for member, name in ((one, "anna"), (two, "ben"), (two, "cleo"))]
        eventually(lambda: one.nodes() == ["anna"] and sorted(two.nodes()) == ["ben", "cleo"])
        fleet.wait_known()
        key, late = one.new_key("anna"), one.new_key("mallory")
        expected = answers(Client(one.url, key), 6)
        asking, let_in, credits = Asking([one.url, two.url], key, expected), list[str](), [booked(fleet.database)]
        with asking.running():
            _watch([], "", let_in, UP_S)
            with split(nats, postgres):
                eventually(lambda: list(one.seen()) == [one.url])
                one.revoke("mallory")
                [cleo] = [node["key"] for node in one.ask("/v1/admin/nodes").json()["nodes"] if node["name"] == "cleo"]
                one.ask(f"/v1/admin/nodes/{cleo}", json={"revoked": True})
                before = asking.whole
                _watch([one, two], late, let_in, 30 if nightly else 12)
                assert asking.whole > before
                credits.append(booked(fleet.database))
            eventually(lambda: two.nodes() == ["ben"])  # it hears that the other one was revoked
            _watch([one, two], late, let_in, UP_S)
            fleet.wait_known()
    assert "revoked" in nodes[2].lines[-1]
    assert asking.lost == []
    assert let_in == []
    assert credits == sorted(credits)
