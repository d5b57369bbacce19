from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from kit.newcomer import COORDINATOR
from kit.runner import run
from kit.tiny_gguf import write_tiny_gguf
from kit.watched import watched
from potluck.coordinator.app import ModelConfig, ServeConfig, make_app
from potluck.coordinator.audits.audits import Audits, no_audits
from potluck.coordinator.http.office import open_office
from potluck.coordinator.members.store import open_store
from potluck.coordinator.sessions.claim import Rank
from potluck.coordinator.swarm.events import BecameReady, Joined, Leaves, Left, Quarantined, Stalled
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import Interruption, Outcome, Remedy, Source, Tally
from potluck.coordinator.watching import metrics as module
from potluck.coordinator.watching.metrics import Metrics, RequestCount
from potluck.coordinator.watching.watched import Watched
from potluck.models.sources import find_model, open_model
from potluck.planning.cost import Footprint
from potluck.types import Audience, Capacity, Span, Speed
from potluck.wire.messages import Hello, Ready

READY = Ready(Capacity(8, 100, 64), Speed(0.01, 0.001), "twin", "plain")
LAYERS = 4

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def join(swarm: Swarm, node: str, span: str, name: str = "anna", *, ready: bool = True) -> None:
    swarm.handle(Joined(node, Hello(name, "0.1", "", Span.parse(span), 1 << 40, 3, key=node.encode())))
    if ready:
        swarm.handle(BecameReady(node, READY))


@pytest.fixture
def swarm() -> Swarm:
    return Swarm("d", Footprint((1,) * LAYERS, 0, 0))


def scrape(swarm: Swarm, audits: Audits | None = None, waiting: Counter[Rank] | None = None) -> Samples:
    """What is told of a swarm."""
    return read(watched(swarm, audits=audits or no_audits(), waiting=lambda: waiting or Counter()))


def read(*models: Watched) -> Samples:
    """What Prometheus' own parser reads, after three requests."""
    return parsed(bytes(Metrics(models, Counter({200: 3})).response().body).decode())


def parsed(page: str) -> Samples:
    """The samples of a page. Fails where one of them, or a metric, is there twice."""
    families = [*text_string_to_metric_families(page)]
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"potluck_{name}", frozenset(labels.items())


def test_an_empty_swarm_misses_all_layers(swarm: Swarm) -> None:
    found = scrape(swarm)
    assert (found[key("layers")], found[key("layers_missing")], found[key("layer_nodes_min")]) == (LAYERS, LAYERS, 0)
    assert found[key("nodes", state="ready")] == 0


def test_nodes_and_layers_are_counted(swarm: Swarm) -> None:
    for node, span in (("a", "0-2"), ("b", "2-3"), ("c", "0-3")):
        join(swarm, node, span, ready=node != "c")
    found = scrape(swarm)
    assert [found[key("layer_nodes", layer=str(layer))] for layer in range(LAYERS)] == [1, 1, 2, 1]
    assert (found[key("layers_missing")], found[key("layer_nodes_min")]) == (0, 1)
    assert (found[key("nodes", state="ready")], found[key("nodes", state="loading")]) == (2, 1)


def test_each_node_has_figures_of_its_own_also_where_names_are_alike_or_odd(swarm: Swarm) -> None:
    join(swarm, "a", "0-3", name='an"na\n\\')
    join(swarm, "b", "0-3", name='an"na\n\\')
    swarm.kv_budget.reserve(7, 10)
    found = scrape(swarm)
    alike = {"node": 'an"na\n\\', "layers": "0-3"}
    assert sorted(found[key("node_sessions", **alike, copy=copy)] for copy in "12") == [0, 1]
    assert found[key("node_threads", **alike, copy="1")] == 3
    assert found[key("node_token_seconds", **alike, copy="2")] == READY.speed.decode_s


def test_no_more_nodes_are_shown_one_by_one_than_a_database_bears(swarm: Swarm, monkeypatch) -> None:
    monkeypatch.setattr(module, "_MOST_NODES", 2)
    for number in range(3):
        join(swarm, f"n{number}", "0-3")
    found = scrape(swarm)
    assert sum(name == "potluck_node_sessions" for name, _ in found) == 2
    assert found[key("nodes", state="ready")] == 3


def test_what_happens_to_nodes_is_counted(swarm: Swarm) -> None:
    for node in "abcd":
        join(swarm, node, "0-3")
    quarantined = Quarantined("c", b"c", "lies")
    for event in (Stalled("a", "silent"), Left("a"), Leaves("b"), Left("b"), quarantined, Left("nobody")):
        swarm.handle(event)
    found = scrape(swarm)
    happened = {name: found[key("node_incidents_total", incident=name)] for name in ("joined", "left", "lost")}
    assert happened == {"joined": 4, "left": 1, "lost": 1}
    assert found[key("node_incidents_total", incident="stalled")] == 1
    assert found[key("node_incidents_total", incident="quarantined")] == 1


def test_audits_and_the_queue_are_told(swarm: Swarm) -> None:
    join(swarm, "a", "0-3")
    audits = no_audits()
    audits.record(b"a").passed = 3
    audits.totals.passed, audits.undecided = 5, 2
    found = scrape(swarm, audits, Counter({Rank.BATCH: 4}))
    assert found[key("node_audits_total", node="anna", layers="0-3", copy="1", result="passed")] == 3
    assert [found[key("audits_total", result=result)] for result in ("passed", "failed", "undecided")] == [5, 0, 2]
    assert [found[key("queue_requests", priority=rank.word)] for rank in Rank] == [0, 4, 0]


def test_guesses_are_counted_by_their_source_and_by_what_became_of_them(swarm: Swarm) -> None:
    swarm.tally.guesses.update({(Source.MODEL, Outcome.RIGHT): 293, (Source.REPEAT, Outcome.VOID): 7})
    found = scrape(swarm)
    told = {labels: count for (name, labels), count in found.items() if name == "potluck_guesses_total"}
    assert len(told) == len(Source) * len(Outcome)
    assert {labels: count for labels, count in told.items() if count} == {
        frozenset({("source", "model"), ("outcome", "right")}): 293,
        frozenset({("source", "repeat"), ("outcome", "void")}): 7,
    }


def test_several_models_are_told_apart_by_a_label_and_requests_are_counted_together(swarm: Swarm) -> None:
    other = Swarm("e", Footprint((1,) * 2, 0, 0))
    join(swarm, "a", "0-3")
    join(other, "a", "0-1")  # a node of the same name
    other.tally.rows = 7
    requests = key("http_requests_total", status="200")

    def labelled(model: Watched) -> Samples:
        alone = read(model)
        assert alone.pop(requests) == 3
        assert {name for name, labels in alone if "model" in dict(labels)} == {"potluck_info"}
        return {(name, labels | {("model", model.name)}): value for (name, labels), value in alone.items()}

    models = watched(swarm), watched(other, "other")
    assert read(*models) == labelled(models[0]) | labelled(models[1]) | {requests: 3}
    assert read(*models)[key("rows_total", model="other")] == 7
    assert read(*models)[key("node_threads", model="toy", node="anna", layers="0-3", copy="1")] == 3


def test_an_interruption_is_counted_once_with_its_whole_length() -> None:
    tally = Tally()
    interruption = Interruption(tally)
    interruption.end(1)
    assert not tally.mended
    interruption.begin(2)
    interruption.begin(3)
    interruption.remedy = Remedy.REBUILT
    interruption.end(6)
    interruption.end(7)
    assert (tally.mended, tally.mending_s) == ({Remedy.REBUILT: 1}, {Remedy.REBUILT: 4})


@pytest.mark.parametrize("status", [200, 404, None])
def test_requests_are_counted_by_status_and_broken_ones_as_errors(status: int | None) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        if status is None:
            raise RuntimeError
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body"})

    async def nothing(*_: Message) -> Message:
        return {}

    async def ask() -> None:
        for kind in ("http", "http", "lifespan"):
            try:
                await counted({"type": kind}, nothing, nothing)  # type: ignore[arg-type]
            except RuntimeError:
                assert status is None

    requests = Counter[int]()
    counted = RequestCount(app, requests)
    run(ask())
    assert requests == {status or 500: 2}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    """Of a coordinator that serves its own machine alone."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tokenizer="bpe")
    store = open_store(f"sqlite:///{tmp_path}/potluck.db")
    office = open_office(store, Audience.LOCAL, COORDINATOR, "http://127.0.0.1:8470")
    app = make_app(ServeConfig(models=(ModelConfig(find_model(str(path))),)), [open_model(path)], office)
    yield TestClient(app, base_url="http://127.0.0.1:8470")
    store.close()


def test_the_route_gives_text_and_counts_what_was_asked(client: TestClient) -> None:
    client.get("/nowhere")
    client.get("/metrics", headers={"Origin": "http://example.org"})
    reply = client.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = parsed(reply.text)
    assert found[key("http_requests_total", status="404")] == 1
    assert found[key("http_requests_total", status="403")] == 1
