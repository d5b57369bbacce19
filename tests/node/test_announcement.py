"""What a node tells before it fetches anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from potluck.node.announcement import announcement
from potluck.node.loading import Needs
from potluck.node.room import Room
from potluck.types import Attention, EngineKind, Outlook, Prospect, Quantize, RowFormat, Span
from potluck.wire.messages import Welcome

URL = "http://swarm.example"
NOTHING = Outlook((Span(0, 9),), 0.0, 0.0)
HALF = Outlook((Span(5, 9),), 0.0, 0.0)
ALL = Outlook((), 12.34, 1234.5)
GUESS = ". This is an estimate."


def tell(
    prospect: Prospect | None = None,
    download: int = 3 << 20,
    model: Path | None = None,
    peers: tuple[str, ...] = (),
    last: int = 4,
    card: int = 0,
) -> list[str]:
    welcome = Welcome(
        node="n1",
        model="d",
        span=Span(0, last),
        engine=EngineKind.LLAMACPP,
        quantize=Quantize.NONE,
        attention=Attention.EXACT,
        rows=RowFormat.F32,
        context=64,
        peers=peers,
        prospect=prospect,
    )
    return announcement(welcome, Needs(5000 << 20, card << 20, download), Room(8192 << 20, 6144 << 20), URL, model)


def test_what_the_layers_need() -> None:
    assert tell() == [
        "Layers 0-4 take 5,000 of the 8,192 MiB of memory that you offer.",
        f"This node has to download 3.0 MiB from {URL}.",
    ]
    assert tell(last=0)[0] == "Layer 0 takes 5,000 of the 8,192 MiB of memory that you offer."
    of_card = "3,000 of the 6,144 MiB of your graphics card."
    assert tell(card=3000)[0] == f"Layers 0-4 take 5,000 of the 8,192 MiB of memory that you offer, and {of_card}"
    assert tell(peers=("a", "b"))[1] == f"This node has to download 3.0 MiB from {URL} and 2 of its nodes."
    assert tell(download=0)[1] == "This node has nothing to download: the layers are already here."
    assert tell(model=Path("m.gguf"))[1] == "This node has nothing to download: the layers are in m.gguf."


@pytest.mark.parametrize(
    ("prospect", "told"),
    [
        (
            Prospect(NOTHING, HALF),
            ["Without this node, the swarm lacks layers 0-9; with it, the swarm lacks layers 5-9."],
        ),
        (
            Prospect(HALF, ALL),
            [
                "Without this node, the swarm lacks layers 5-9; with it, the swarm lacks none.",
                f"It would then generate 12.3 tokens/s for one stream and 1,234.5 for many together{GUESS}",
            ],
        ),
        (
            Prospect(Outlook((), 10.0, 20.0), ALL),
            [
                "Without this node, the swarm generates 10.0 tokens/s for one stream and 20.0 for many together.",
                f"With it, the swarm would generate 12.3 tokens/s for one stream and 1,234.5 for many together{GUESS}",
            ],
        ),
    ],
)
def test_what_the_swarm_has_of_it(prospect: Prospect, told: list[str]) -> None:
    assert tell(prospect)[2:] == told


def test_many_gaps_are_counted() -> None:
    gaps = Outlook(tuple(Span(layer, layer) for layer in range(0, 200, 2)), 0.0, 0.0)
    told = tell(Prospect(gaps, gaps))[2]
    assert told == "Without this node, the swarm lacks 100 layers; with it, the swarm lacks 100 layers."


def test_a_span_as_no_model_has_it_is_told_all_the_same() -> None:
    endless = Outlook((Span(0, 2**64 - 1),), 0.0, 0.0)
    told = tell(Prospect(endless, endless))[2]
    assert told.startswith("Without this node, the swarm lacks layers 0-1844674407370955")
