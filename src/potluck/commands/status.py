"""`potluck status` shows who serves which layers, once or live."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from potluck.client import Client, statuses
from potluck.commands.terminal import AsJson, Key, Url, client_of, console, say_json
from potluck.errors import PotluckError

_LOOK_S = 1.0

Watch = Annotated[bool, typer.Option("--watch", help="Show the status live, until Ctrl-C.")]


def status(url: Url, watch: Watch = False, as_json: AsJson = False, key: Key = "") -> None:
    """Show who serves which layers, and how fast."""
    swarm = client_of(url, key)
    if watch and (as_json or not console.is_terminal):
        raise PotluckError("--watch needs a terminal: programs can ask repeatedly with --json.")
    if watch:
        _watch(replace(swarm, waiting=nullcontext))
    elif as_json:
        say_json(swarm.status())
    else:
        console.print(_shown(swarm))


def _watch(swarm: Client) -> None:
    """Show the status every second. If the coordinator is away for a while, say so and keep asking."""
    with Live(_shown(swarm), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(_LOOK_S)
            try:
                shown = _shown(swarm)
            except PotluckError as error:
                shown = Group(str(error))
            live.update(shown, refresh=True)


def _shown(swarm: Client) -> Group:
    return Group(boards(swarm.status()), *coordinators(swarm.fleet()))


def boards(told: dict[str, Any]) -> Group:
    """The answer of `/status` as people read it: a board for each model, under its name where there are several."""
    models, idle = statuses(told), told.get("idle", [])
    waiting = [f"Nodes that wait until somebody asks for a model: {', '.join(_machine(node) for node in idle)}."]
    if len(models) == 1:
        return Group(board(models[0]), *(waiting if idle else []))
    shown = [Group(Text(one["model"], style="bold"), board(one), "") for one in models]
    return Group(*shown, *(waiting if idle else []))


def coordinators(told: dict[str, Any]) -> list[Table | str]:
    """The answer of `/fleet` as people read it. There is nothing to read where there is no fleet."""
    if not told["coordinators"]:
        return []
    table = Table("coordinator", "version", "model", "layers", "waiting", "answers", box=None)
    for each in told["coordinators"]:
        url = f"{each['url']} (this one)" if each["here"] else each["url"]
        for number, model in enumerate(each["models"]):
            who = ["", ""] if number else [url, each["version"]]
            layers = "covered" if model["covered"] else f"{', '.join(model['missing'])} missing"
            table.add_row(*who, Text(model["names"][0]), layers, str(model["waiting"]), str(model["streams"]))
    fault = [f"This coordinator hears nothing of the others: {told['fault']}."] if told["fault"] else []
    return [table, *fault]


def _machine(node: dict[str, Any]) -> str:
    return f"{node['name']} ({node['memory'] + node['gpu_memory'] >> 20:,} MiB)"


def board(info: dict[str, Any]) -> Group:
    """The status of a model as people read it."""
    missing, digest = ", ".join(info["missing"]), f" ({info['digest'][:16]})" if info["digest"] else ""
    about = f"Model {info['model']}{digest}: {info['layers']} layers, context {info['context']}."
    if info["state"] == "offered" and not info["nodes"]:
        return Group(about, "It is loaded when somebody asks for it.")
    lines = [
        about,
        *([info["fault"]] if info["fault"] else []),
        *([] if info["proved"] else ["Nobody has proved that parts of this architecture compute what the whole does."]),
        f"Nodes per layer: {' '.join(map(str, info['served']))}",
        "Every layer is covered." if info["covered"] else f"No node serves layers {missing}.",
    ]
    if info["covered"]:
        lines.append(info["limit"])
    if info["guesses"]["told"]:
        lines.append(info["guesses"]["told"])
    if info["waiting"]:
        lines.append(f"Requests that wait for room: {info['waiting']}.")
    table = [_table(info["nodes"])] if info["nodes"] else []
    reasons = [f"{node['name']} is {node['state']}: {node['reason']}." for node in info["nodes"] if node["reason"]]
    return Group(*lines, *table, *reasons)


def _table(nodes: list[dict[str, Any]]) -> Table:
    table = Table("node", "layers", "state", "tokens/s", "prompt tokens/s", "sessions", "threads", "layout", box=None)
    for node in nodes:
        state = f"loading {node['progress']:.0%}" if node["state"] == "loading" else node["state"]
        speeds = [str(node[key] or "") for key in ("tokens_per_s", "prefill_tokens_per_s")]
        table.add_row(
            node["name"], node["span"], state, *speeds, str(node["sessions"]), str(node["threads"]), node["layout"]
        )
    return table
