"""The commands for what this machine keeps of models: `potluck models list | pull | rm | show | limit`."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from potluck.commands.bars import bar, checking
from potluck.commands.terminal import (
    AsJson,
    Engine,
    Model,
    QuantizeTo,
    Revision,
    console,
    say,
    say_json,
)
from potluck.errors import PotluckError
from potluck.types import Span

if TYPE_CHECKING:
    from potluck.models.cache import About, Held, Kept

SPAN_HELP = "Layers, as 12 or 12-15. Default: all."
NAME_HELP = "The model's name, or the first digits of its digest."
LIMIT_HELP = "The most, as 50G; none: no limit. Default: show it."

models = typer.Typer(no_args_is_help=True, help="List, fetch and remove what this machine keeps of models.")

Layers = Annotated[str | None, typer.Argument(metavar="[SPAN]", help=SPAN_HELP)]


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the layers that are kept here, and when each was last used."""
    from potluck.models.cache import kept_models, read_limit
    from potluck.models.sources import cache_folder

    kept, limit = kept_models(cache_folder()), read_limit(cache_folder())
    total = _total(kept)
    if as_json:
        say_json({"models": [_kept_json(each) for each in kept], "bytes": total, "limit": limit})
        return
    table = Table("model", "digest", "layers", "MiB", "last used", "", box=None)
    for each in kept:
        for held in each.spans:
            table.add_row(each.name, each.digest[:8], _layers(held), _mib(held.nbytes), _date(held.used), _state(held))
    if kept:
        console.print(table)
    say(f"All layers together take {_mib(total)} MiB in {cache_folder()}. {_limit_sentence(limit)}")


@models.command()
def pull(
    model: Model,
    span: Layers = None,
    engine: Engine = None,
    quantize: QuantizeTo = None,
    revision: Revision = None,
) -> None:
    """Fetch layers of a model on the hub, for nodes that will host them."""
    from potluck.coordinator.model_choice import choose_engine
    from potluck.models.cache import on_disk
    from potluck.models.sources import find_model
    from potluck.models.spancache import SpanCache, Wanted
    from potluck.models.spanfile import download_size
    from potluck.models.spans import cuts_of

    asked, found = Span.parse(span) if span is not None else None, find_model(model, revision)
    if found.hub is None:
        raise PotluckError(f"{model} is not on the hub: only models there are fetched.")
    with closing(found.hub):
        outline = found.outline()  # what cannot be fetched is known before all weights have been read
        kind = choose_engine(outline, engine, quantize)
        layers = cuts_of(outline, kind[0]).check(asked or Span(0, outline.layers - 1))
        with checking(found.nbytes) as advance:
            manifest = found.manifest(advance)
        wanted = Wanted(manifest, layers, *kind)
        with bar("Fetching", download_size(wanted.plan()[1])) as advance:
            path = SpanCache(1).fetch(wanted, found.hub, advance)
    say(f"Layers {layers} of {manifest.name} are here and take {_mib(on_disk(path.stat()))} MiB.")


@models.command()
def rm(name: Annotated[str, typer.Argument(metavar="NAME", help=NAME_HELP)], span: Layers = None) -> None:
    """Remove layers of a model from this machine."""
    from potluck.models.cache import remove
    from potluck.models.holds import is_held

    kept = _find(name)
    asked = Span.parse(span) if span is not None else None
    doomed = [held for held in kept.spans if asked in (None, held.span)]
    if not doomed:
        raise PotluckError(f"Layers {asked} of {kept.name} are not here.")
    used = [held for held in doomed if is_held(held.path)]
    if used:
        raise PotluckError(f"A node uses layers {_layers(used[0])} of {kept.name}: let it leave first.")
    for held in doomed:
        if not remove(held.path):
            raise PotluckError(f"A node has begun to use layers {_layers(held)} of {kept.name}: let it leave first.")
        say(f"Removed layers {_layers(held)} of {kept.name}, which took {_mib(held.nbytes)} MiB.")
    say(f"This has freed {_mib(sum(held.nbytes for held in doomed))} MiB.")


@models.command()
def show(model: Model, revision: Revision = None, as_json: AsJson = False) -> None:
    """Show what a model is, whether it is here or on the hub."""
    from potluck.models.cache import find_kept
    from potluck.models.sources import cache_folder

    kept = find_kept(cache_folder(), model) if revision is None else None
    told = kept.about if kept is not None and kept.about is not None else _look_up(model, revision)
    if as_json:
        say_json({**_about_json(told), "kept": [_held_json(held) for held in kept.spans] if kept else []})
        return
    say(f"Model {told.name}{f' ({told.digest[:16]})' if told.digest else ''}: {told.architecture}, {told.format}.")
    outside = told.nbytes - sum(told.layers)
    say(
        f"{len(told.layers)} layers of {_range(told.layers)} MiB, and {_mib(outside)} MiB outside the layers: "
        f"{_mib(told.nbytes)} MiB in all."
    )
    say(f"Context: {told.context} tokens.")
    shares = ", ".join(f"{name} ({nbytes / max(1, told.nbytes):.0%})" for name, nbytes in told.types.items())
    say(f"Weights: {shares}.")
    for held in kept.spans if kept else ():
        say(f"Here: layers {_layers(held)}, {_mib(held.nbytes)} MiB, last used {_date(held.used)}.")


@models.command()
def limit(size: Annotated[str | None, typer.Argument(metavar="[SIZE]", help=LIMIT_HELP)] = None) -> None:
    """Limit what all layers together may take, or show the limit."""
    from potluck.models.cache import kept_models, make_room, read_limit
    from potluck.models.sources import cache_folder

    if size is not None:
        keep_limit(size)
        for held in make_room(cache_folder(), 0):
            say(f"Removed layers {_layers(held)} in {held.path.parent}, which took {_mib(held.nbytes)} MiB.")
    most = read_limit(cache_folder())
    say(_limit_sentence(most))
    if most is not None and most < (total := _total(kept_models(cache_folder()))):
        say(f"What nodes use now takes more: {_mib(total)} MiB.")


def keep_limit(size: str) -> None:
    """Keep the limit that the command line gives, for all nodes with this cache."""
    from potluck.models.cache import write_limit
    from potluck.models.sources import cache_folder
    from potluck.planning.inventory import parse_memory

    write_limit(cache_folder(), None if size == "none" else parse_memory(size))


def _find(name: str) -> Kept:
    from potluck.models.cache import find_kept
    from potluck.models.sources import cache_folder

    kept = find_kept(cache_folder(), name)
    if kept is None:
        raise PotluckError(f"No layers of a model {name!r} are here: potluck models list shows what is.")
    return kept


def _look_up(model: str, revision: str | None) -> About:
    from potluck.models.cache import about
    from potluck.models.sources import find_model

    found = find_model(model, revision)
    try:
        return about(found.outline(), hashed=False)
    finally:
        if found.hub is not None:
            found.hub.close()


def _total(kept: list[Kept]) -> int:
    return sum(held.nbytes for each in kept for held in each.spans)


def _limit_sentence(limit: int | None) -> str:
    return "There is no limit." if limit is None else f"The limit is {_mib(limit)} MiB."


def _state(held: Held) -> str:
    from potluck.models.holds import is_held

    return "in use" if is_held(held.path) else "" if held.finished else "unfinished"


def _layers(held: Held) -> str:
    return f"{held.span} in {held.kind}" if held.kind else str(held.span)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):,.1f}"


def _range(sizes: tuple[int, ...]) -> str:
    least, most = _mib(min(sizes)), _mib(max(sizes))
    return least if least == most else f"{least} to {most}"


def _held_json(held: Held) -> dict[str, Any]:
    from potluck.models.holds import is_held

    return {
        "layers": str(held.span),
        "kind": held.kind,
        "bytes": held.nbytes,
        "used": held.used,
        "finished": held.finished,
        "in_use": is_held(held.path),
    }


def _about_json(told: About) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(told))


def _kept_json(kept: Kept) -> dict[str, Any]:
    told = _about_json(kept.about) if kept.about is not None else {}
    return {**told, "name": kept.name, "digest": kept.digest, "kept": [_held_json(held) for held in kept.spans]}
