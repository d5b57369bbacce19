"""The sentences that a node shows its owner before it downloads anything: what it will do, and what the swarm gains."""

from __future__ import annotations

from pathlib import Path

from potluck.node.loading import Needs
from potluck.node.room import Room
from potluck.types import Outlook, Prospect, Span
from potluck.wire.messages import Welcome

_ESTIMATE = "This is an estimate."
_MOST_SPANS = 8
"""Missing layers are named up to this number of spans; if there are more, only the number of layers is given."""


def announcement(welcome: Welcome, needs: Needs, room: Room, url: str, model: Path | None) -> list[str]:
    """The sentences in order. room: what the owner offers. url: the coordinator's. model: a copy of it here."""
    verb = "takes" if welcome.span.first == welcome.span.last else "take"
    taken = f"{verb} {needs.memory >> 20:,} of the {room.memory >> 20:,} MiB of memory that you offer"
    if needs.card and not room.shares:
        taken += f", and {needs.card >> 20:,} of the {room.card >> 20:,} MiB of your graphics card"
    told = [f"{_layers((welcome.span,)).capitalize()} {taken}.", _source(welcome, needs, url, model)]
    return told if welcome.prospect is None else [*told, *_prospect(welcome.prospect)]


def _source(welcome: Welcome, needs: Needs, url: str, model: Path | None) -> str:
    if not needs.download:
        return "This node has nothing to download: the layers are already here."
    if model is not None:
        return f"This node has nothing to download: the layers are in {model}."
    others = f" and {len(welcome.peers)} of its nodes" if welcome.peers else ""
    return f"This node has to download {needs.download / (1 << 20):,.1f} MiB from {url}{others}."


def _prospect(prospect: Prospect) -> list[str]:
    without, joined = prospect.without, prospect.joined
    if not without.missing:
        now = f"Without this node, the swarm generates {_rates(without)}."
        return [now, f"With it, the swarm would generate {_rates(joined)}. {_ESTIMATE}"]
    lacking = f"Without this node, the swarm lacks {_layers(without.missing)}; "
    lacking += f"with it, the swarm lacks {_layers(joined.missing)}."
    if joined.missing:
        return [lacking]
    return [lacking, f"It would then generate {_rates(joined)}. {_ESTIMATE}"]


def _rates(outlook: Outlook) -> str:
    return f"{outlook.one_stream:,.1f} tokens/s for one stream and {outlook.many_streams:,.1f} for many together"


def _layers(spans: tuple[Span, ...]) -> str:
    count = sum(span.last - span.first + 1 for span in spans)  # len() would fail for what a liar sends
    if not count:
        return "none"
    if len(spans) > _MOST_SPANS:
        return f"{count} layers"
    return f"{'layer' if count == 1 else 'layers'} {', '.join(map(str, spans))}"
