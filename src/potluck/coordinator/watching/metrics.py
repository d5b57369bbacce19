"""The answer of `/metrics` for Prometheus: the swarms' states and their tallies, read when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potluck import __version__
from potluck.coordinator.sessions.claim import Rank
from potluck.coordinator.swarm.node import Node
from potluck.coordinator.swarm.tally import Incident, Outcome, Remedy, Source, Tally, TokenKind
from potluck.coordinator.watching.watched import Watched
from potluck.types import NodeState

S = TypeVar("S", bound=str)
F = TypeVar("F", GaugeMetricFamily, CounterMetricFamily)

_MOST_NODES = 500
"""Nodes of a model that are shown one by one. Where everybody may join, strangers should not fill a database."""

_NODE = ("node", "layers", "copy")

_NODE_GAUGES: tuple[tuple[str, str, Callable[[Node], float]], ...] = (
    ("sessions", "Answers under way on the node.", lambda node: node.open_sessions),
    ("parked_sessions", "Sessions that the node keeps for a follow-up.", lambda node: len(node.parked)),
    ("held_sessions", "Sessions whose state the node holds.", lambda node: node.held),
    ("token_seconds", "Average time of a token through the layers.", lambda node: node.measure.token_s),
    ("row_seconds", "Average time of a prompt's row through the layers.", lambda node: node.measure.row_s),
    ("hop_seconds", "Average time of a step outside queue and compute.", lambda node: node.measure.hop_s),
    ("threads", "Threads that the node computes with.", lambda node: node.threads),
)


class Metrics(Collector):
    """The metrics of these models' swarms. requests: the HTTP requests that were answered, by the reply's status."""

    def __init__(self, models: Sequence[Watched], requests: Counter[int]) -> None:
        self._models = models
        self._requests = requests
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def response(self) -> Response:
        """The reply to a scrape."""
        return Response(generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    def collect(self) -> Iterator[Metric]:
        yield from _of_all(self._models)
        requests = {str(status): count for status, count in sorted(self._requests.items())}
        meaning = "HTTP requests that were answered."
        yield _family(CounterMetricFamily, "potluck_http_requests", meaning, "status", requests)


def _of_all(models: Sequence[Watched]) -> Iterator[Metric]:
    """Every metric once, with the samples of all models, which have the label `model` where there are several."""
    asked = [model for model in models if model.asked()]  # the others have nothing to tell
    for alike in zip(*map(_of_one, asked), strict=True):
        metric = alike[0]
        if len(models) > 1:
            metric.samples = [
                sample._replace(labels={**sample.labels, "model": model.name})
                for model, one in zip(asked, alike, strict=True)
                for sample in one.samples
            ]
        yield metric


def _of_one(model: Watched) -> Iterator[Metric]:
    """The metrics of a model, which are the same ones for every model."""
    yield from _coverage(model)
    yield from _nodes(model)
    yield from _line_and_audits(model)
    yield from _counted(model.swarm.tally)


def _coverage(model: Watched) -> Iterator[Metric]:
    swarm, served = model.swarm, model.swarm.served()
    about = {"version": __version__, "model": model.name, "digest": model.swarm.digest}
    yield InfoMetricFamily("potluck", "The model that is served, and the version that serves it.", about)
    yield GaugeMetricFamily("potluck_layers", "Layers of the model.", swarm.layers)
    yield GaugeMetricFamily("potluck_layers_missing", "Layers that no ready node serves.", served.count(0))
    yield GaugeMetricFamily("potluck_layer_nodes_min", "Ready nodes at the layer that has the fewest.", min(served))
    by_layer = {str(layer): nodes for layer, nodes in enumerate(served)}
    yield _family(GaugeMetricFamily, "potluck_layer_nodes", "Ready nodes that serve the layer.", "layer", by_layer)


def _nodes(model: Watched) -> Iterator[Metric]:
    states = Counter(node.state for node in model.swarm.nodes.values())
    by_state = {state: states[state] for state in NodeState}
    yield _family(GaugeMetricFamily, "potluck_nodes", "Nodes that are connected.", "state", by_state)
    shown = dict(_labelled(islice(model.swarm.nodes.values(), _MOST_NODES)))
    for name, meaning, value in _NODE_GAUGES:
        family = GaugeMetricFamily(f"potluck_node_{name}", meaning, labels=_NODE)
        for labels, node in shown.items():
            family.add_metric(labels, value(node))
        yield family
    audits = CounterMetricFamily("potluck_node_audits", "Audits of the node's key.", labels=(*_NODE, "result"))
    for labels, node in shown.items():
        record = model.audits.record(node.key)
        audits.add_metric((*labels, "passed"), record.passed)
        audits.add_metric((*labels, "failed"), record.failed)
    yield audits


def _line_and_audits(model: Watched) -> Iterator[Metric]:
    waiting, totals = model.waiting(), model.audits.totals
    by_class = {rank.word: waiting[rank] for rank in Rank}
    yield _family(GaugeMetricFamily, "potluck_queue_requests", "Requests that wait for room.", "priority", by_class)
    results = {"passed": totals.passed, "failed": totals.failed, "undecided": model.audits.undecided}
    yield _family(CounterMetricFamily, "potluck_audits", "Audits that have ended.", "result", results)


def _counted(tally: Tally) -> Iterator[Metric]:
    tokens = {kind: tally.tokens[kind] for kind in TokenKind}
    yield _family(CounterMetricFamily, "potluck_tokens", "Tokens of prompts and answers.", "kind", tokens)
    guesses = CounterMetricFamily(
        "potluck_guesses", "Tokens that were sent before they were known.", labels=["source", "outcome"]
    )
    for source, outcome in product(Source, Outcome):
        guesses.add_metric([source, outcome], tally.guesses[source, outcome])
    yield guesses
    yield CounterMetricFamily("potluck_rows", "Rows that nodes have computed: positions times stages.", tally.rows)
    yield CounterMetricFamily("potluck_sessions_opened", "Sessions that began anew.", tally.opened)
    yield CounterMetricFamily("potluck_sessions_resumed", "Sessions that continued a parked one.", tally.resumed)
    incidents = {incident: tally.incidents[incident] for incident in Incident}
    yield _family(
        CounterMetricFamily, "potluck_node_incidents", "Events that happened to nodes.", "incident", incidents
    )
    mending = SummaryMetricFamily(
        "potluck_mending_seconds", "Interruptions of answers, until they continued.", labels=["remedy"]
    )
    for remedy in Remedy:
        mending.add_metric([remedy], tally.mended[remedy], tally.mending_s[remedy])
    yield mending


def _family(kind: type[F], name: str, meaning: str, label: str, values: Mapping[S, float]) -> F:
    """A metric with one sample for each value of the label."""
    family = kind(name, meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _labelled(nodes: Iterator[Node]) -> Iterator[tuple[tuple[str, str, str], Node]]:
    """The nodes, each with labels of its own: of two nodes with the same name and span, the second has `copy` 2."""
    copies: Counter[tuple[str, str]] = Counter()
    for node in nodes:
        place = (node.name, str(node.span))
        copies[place] += 1
        yield (*place, str(copies[place])), node


class RequestCount:
    """ASGI middleware that counts each HTTP request by the status of its reply."""

    def __init__(self, app: ASGIApp, requests: Counter[int]) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what the server says when nothing was said here

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            self._requests[status] += 1
