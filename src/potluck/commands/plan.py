"""`potluck plan` forecasts what a set of machines would give, before anybody joins."""

from __future__ import annotations

from math import inf
from typing import Annotated

import typer
from rich.table import Table

from potluck.commands.terminal import (
    AsJson,
    Context,
    Engine,
    Model,
    QuantizeTo,
    Revision,
    console,
    say,
    say_json,
    waiting,
)

MACHINE_HELP = "Memory, GB/s and count, as 8G, 16G@40x3, or 8G+32G with a card."


def plan(
    model: Model,
    machines: Annotated[list[str], typer.Argument(metavar="MACHINE...", help=MACHINE_HELP)],
    round_trip: Annotated[float, typer.Option(metavar="MS", help="A link's round trip.", min=0)] = 1.0,
    bandwidth: Annotated[
        float | None, typer.Option(metavar="MBIT/S", help="A link's bandwidth. Default: no limit.", min=0.001)
    ] = None,
    engine: Engine = None,
    quantize: QuantizeTo = None,
    context: Context = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Forecast which machines would serve which layers, and how fast."""
    from potluck.coordinator.model_choice import choose_context, choose_engine, footprint
    from potluck.models.sources import find_model
    from potluck.planning.forecast import forecast, forecast_json, sentences
    from potluck.planning.inventory import parse_machines
    from potluck.planning.limit import limit_sentence
    from potluck.planning.machine import Placed
    from potluck.planning.plan import place

    fleet = parse_machines(machines, round_trip / 1e3, inf if bandwidth is None else bandwidth * 1e6 / 8)
    manifest = find_model(model, revision).outline()
    kind = choose_engine(manifest, engine, quantize)
    sizes = footprint(manifest, *kind, choose_context(manifest, context))
    with waiting("Placing the layers"):
        spans = place(sizes, fleet)
    placed = [Placed(machine, span) for machine, span in zip(fleet, spans, strict=True) if span is not None]
    told = forecast(sizes, placed)
    if as_json:
        say_json({**forecast_json(sizes, placed, told), "limit": limit_sentence(sizes, placed)})
        return
    table = Table("machine", "layers", "MiB", "MiB on cards", "tokens/s", box=None)
    for machine, span in zip(fleet, spans, strict=True):
        if span is None:
            table.add_row(machine.name, "none", "", "", "")
        else:
            memory, card = sizes.beside(machine.card, span) >> 20, sizes.on_card(machine.card, span) >> 20
            table.add_row(machine.name, str(span), f"{memory}", f"{card or ''}", f"{machine.rate(sizes, span):.1f}")
    console.print(table)
    for sentence in sentences(sizes, told):
        say(sentence)
    if told.bottleneck is not None:
        say(limit_sentence(sizes, placed))
