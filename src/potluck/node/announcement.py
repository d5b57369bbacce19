"""What a node tells its owner before anything is fetched: what it will do, and what the swarm has of it. Pure."""

from __future__ import annotations

from pathlib import Path

from potluck.node.loading import Needs
from potluck.types import Outlook, Prospect, Span
from potluck.wire.messages import Welcome

_MOST_SPANS = 8
"""Of missing layers that are named; of more only the number is told."""


def announcement(welcome: Welcome, needs: Needs, memory: int, url: str, model: Path | None) -> list[str]:
    """Sentences. memory: bytes that the owner gives. url: of the coordinator. model: a copy of it on this machine."""
    taken = f"{needs.memory >> 20:,} of the {memory >> 20:,} MiB of memory that you give"
    told = [f"{_layers((welcome.span,)).capitalize()}: {taken}.", _source(welcome, needs, url, model)]
    return told if welcome.prospect is None else [*told, *_prospect(welcome.prospect)]


def _source(welcome: Welcome, needs: Needs, url: str, model: Path | None) -> str:
    if not needs.download:
        return "Nothing has to be fetched: the layers are here."
    if model is not None:
        return f"Nothing has to be fetched: the layers are in {model}."
    others = f" and {len(welcome.peers)} of its nodes" if welcome.peers else ""
    return f"To fetch: {needs.download / (1 << 20):,.1f} MiB from {url}{others}."


def _prospect(prospect: Prospect) -> list[str]:
    without, joined = prospect.without, prospect.joined
    if not without.missing:
        now = f"Without this node the swarm makes {_rates(without)};"
        return [now, f"with it {_rates(joined)}: a guess, until this node is measured."]
    lacking = f"Without this node the swarm lacks {_layers(without.missing)}, with it {_layers(joined.missing)}."
    if joined.missing:
        return [lacking]
    return [lacking, f"It would make {_rates(joined)}: a guess, until this node is measured."]


def _rates(outlook: Outlook) -> str:
    return f"{outlook.one_stream:,.1f} tokens/s for one stream, {outlook.many_streams:,.1f} for many together"


def _layers(spans: tuple[Span, ...]) -> str:
    count = sum(span.last - span.first + 1 for span in spans)  # len() would fail for what a liar sends
    if not count:
        return "none"
    if len(spans) > _MOST_SPANS:
        return f"{count} layers"
    return f"{'layer' if count == 1 else 'layers'} {', '.join(map(str, spans))}"
