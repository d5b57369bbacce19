"""Writes the tables of docs/models.md: how architectures can be cut, and the memory of published models: `make docs`.

A table stands between `<!-- models: NAME -->` and `<!-- /models -->`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

from bench.geometries import MODELS, Model, manifest_of
from bench.report import ROOT
from bench.tables import markdown
from potluck.coordinator.model_choice import footprint
from potluck.engine.slots import best_shape
from potluck.local import demo_model
from potluck.models.architectures import TABLE, Architecture, Recurrent
from potluck.models.manifest import Manifest
from potluck.models.sizes import kept_by
from potluck.models.sources import open_model
from potluck.models.spans import cuts_of
from potluck.node.room import Room, plan_room
from potluck.planning.cost import Footprint
from potluck.types import Attention, Capacity, Cuts, EngineKind, Quantize, RowFormat, Span
from potluck.wire.messages import Welcome

PAGE = ROOT / "docs" / "models.md"
BLOCK = re.compile(r"(<!-- models: ([a-z]+) -->\n).*?(<!-- /models -->)", re.DOTALL)
WIDTH = 120

CONTEXT = 8192
LAPTOPS = (8, 16, 32)
"""The memory of whole laptops, in GiB."""
OFFERED = 0.75
"""The share of it that is free for a node."""
BANDWIDTH = 50e9
"""The bytes a second that a laptop reads: two channels of DDR4-3200 have 51.2 GB/s, those of DDR5-5600 have 89.6."""
SLOT_MEMORY = (4, 8, 16)
"""What nodes offer, in GiB."""
SHORT = 1024
GIB, MIB, GB = 1 << 30, 1 << 20, 1e9


def page(text: str) -> str:
    """The page with its tables made anew. Raises LookupError for a table that does not exist."""
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def how(row: Architecture) -> str:
    """Where a model of this architecture can be cut."""
    if row.refusal:
        return f"nowhere: {row.refusal}"
    mixed = row.recurrent not in (Recurrent.NONE, Recurrent.ALL)
    conditions = [
        "has a layer with a sliding window" if row.windows else "",
        "has a layer with a recurrent state and one with attention" if mixed else "",
        f"is not {' or '.join(map(str, sorted(row.telling)))} layers long" if row.telling else "",
    ]
    where = f"at multiples of {row.period} layers" if row.period > 1 else "between any two layers"
    told = " and ".join(filter(None, conditions))
    return f"{where}, if each span {told}" if told else where


def architectures() -> str:
    """A list of the ways to cut, each with its architectures."""
    ways: dict[tuple[bool, str], list[str]] = {}
    for name, row in sorted(TABLE.items()):
        ways.setdefault((bool(row.refusal), how(row)), []).append(f"`{name}`")
    ordered = sorted(ways.items(), key=lambda way: (way[0][0], -len(way[1])))
    return "\n".join(_wrapped(f"* {way[0].upper()}{way[1:]}: {', '.join(names)}") for (_, way), names in ordered)


def _wrapped(item: str) -> str:
    return textwrap.fill(item, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def sizes_of(model: Model) -> tuple[Footprint, Cuts]:
    """The model's sizes, with sessions of `CONTEXT` positions or as many as it can have, and its cuts."""
    manifest = manifest_of(model)
    context = min(CONTEXT, model.context)
    return footprint(manifest, EngineKind.LLAMACPP, Quantize.NONE, context), cuts_of(manifest)


def memory() -> str:
    """A table of what each part of the models takes."""
    header = ["model", "weights", "layers", "weights a layer", "session a layer", "embedding", "head", "whole model"]
    return markdown([header, *(_memory(model) for model in MODELS.values())])


def _memory(model: Model) -> list[str]:
    sizes, _ = sizes_of(model)
    least, most = min(sizes.layers), max(sizes.layers)
    layer = mib(most) if least == most else f"{mib(least)}–{mib(most)}"
    whole = f"{(sum(sizes.layers) + sizes.entry + sizes.head) / GIB:.1f} GiB"
    parts = [layer, *map(mib, (sizes.cache[0], sizes.entry, sizes.head))]
    return [model.name, model.types.label, str(model.layers), *parts, whole]


def mib(nbytes: int) -> str:
    return f"{nbytes / MIB:,.1f}"


def laptops() -> str:
    """A table of how many laptops hold each model, and how fast memory lets them answer."""
    header = ["model", *(f"{size} GiB" for size in LAPTOPS), "read for a token", "tokens/s at most"]
    return markdown([header, *(_laptops(model) for model in MODELS.values())])


def _laptops(model: Model) -> list[str]:
    sizes, cuts = sizes_of(model)
    counts = [fewest(sizes, cuts, int(OFFERED * size * GIB)) for size in LAPTOPS]
    read = sizes.work(Span(0, model.layers - 1))
    told = ["too small" if count is None else str(count) for count in counts]
    return [model.name, *told, f"{read / GB:.1f} GB", f"{BANDWIDTH / read:.1f}"]


def fewest(sizes: Footprint, cuts: Cuts, memory: int) -> int | None:
    """The number of equal machines that hold the model, each as many layers as it can; None if one cannot be held."""
    count, first = 0, 0
    while first < cuts.layers:
        spans = (Span(first, end - 1) for end in cuts.points if end > first)
        fitting = [span for span in spans if cuts.allows(span) and sizes.of(span) <= memory]
        if not fitting:
            return None
        count, first = count + 1, fitting[-1].last + 1
    return count


def slots() -> str:
    """A table of what a session of full length takes on a node, and how many run at once, long and short ones."""
    header = ["model", "layers", "positions", "a session takes", *(f"{size} GiB" for size in SLOT_MEMORY)]
    whole = open_model(demo_model())
    parts = {"Llama-3-8B": 2, "GPT-NeoX-20B": 4}
    rows = [_slots("SmolLM2-135M", whole, whole.layers, min(CONTEXT, whole.context))]
    for model in MODELS.values():
        if model.name in parts:
            manifest = manifest_of(model)
            rows.append(_slots(model.name, manifest, model.layers // parts[model.name], min(CONTEXT, model.context)))
    return markdown([header, *rows])


def _slots(name: str, manifest: Manifest, layers: int, context: int) -> list[str]:
    welcome = Welcome(
        node="",
        model="",
        span=Span(0, layers - 1),
        engine=EngineKind.LLAMACPP,
        quantize=Quantize.NONE,
        attention=Attention.EXACT,
        rows=RowFormat.F32,
        context=context,
    )
    kept = sum(layer.of(context) for layer in kept_by(manifest, EngineKind.LLAMACPP, Attention.EXACT)[:layers])
    told = [f"{long} / {short}" for long, short in (_at_once(manifest, welcome, size) for size in SLOT_MEMORY)]
    return [name, f"{layers} of {manifest.layers}", f"{context:,}", f"{kept / MIB:,.0f} MiB", *told]


def _at_once(manifest: Manifest, welcome: Welcome, memory: int) -> tuple[int, int]:
    """The sessions of full length, and of `SHORT` positions, that a node with so many GiB runs at once."""
    capacity = plan_room(manifest, welcome, Room(memory * GIB)).capacity
    return most_slots(capacity, welcome.context), most_slots(capacity, SHORT)


def most_slots(capacity: Capacity, length: int) -> int:
    """The most sessions of this length that have slots."""
    fitting = [count for count in range(1, capacity.sessions + 1) if _has_slots(capacity, length, count)]
    return max(fitting, default=1)


def _has_slots(capacity: Capacity, length: int, count: int) -> bool:
    return not best_shape(capacity, [length] * count).is_shared


TABLES: dict[str, Callable[[], str]] = {
    "architectures": architectures,
    "memory": memory,
    "slots": slots,
    "laptops": laptops,
}


def main() -> None:
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
