"""The commands about who may use a swarm: `potluck invite | key | node …` for its owner, and `potluck account`."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from potluck.commands.terminal import AsJson, Key, Url, client_of, console, say, say_json
from potluck.errors import PotluckError

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_NEVER = "never"
LIFETIME = "7d"
"""Of an invite, where nothing else was said."""
_SHORT = 16
"""Hex digits of a node's key that are shown; as many as there must be to tell two nodes apart are understood."""

Json = dict[str, Any]
Id = Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.")]
NodeKey = Annotated[str, typer.Argument(metavar="NODE", help="Its key's first digits, as the list shows them.")]

invites = typer.Typer(no_args_is_help=True, help="Who may join: make, list and revoke invites.")
keys = typer.Typer(no_args_is_help=True, help="Who may ask: make, list and revoke API keys.")
nodes = typer.Typer(no_args_is_help=True, help="Nodes: pause, resume, leave those here; list, revoke, trust any.")


@invites.command("create")
def create_invite(
    url: Url,
    uses: Annotated[
        int | None, typer.Option(metavar="N", help="How many nodes may come by it; default: any.", min=1)
    ] = None,
    expires: Annotated[str, typer.Option(metavar="TIME", help="After 30m, 12h or 7d, or never.")] = LIFETIME,
    account: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose credits they earn; default: each its own.")
    ] = None,
    as_json: AsJson = False,
    key: Key = "",
) -> None:
    """Print the command that joins."""
    body = {"uses": uses, "lifetime_s": parse_lifetime(expires), "account": account}
    made = client_of(url, key).admin("POST", "invites", body)
    if as_json:
        say_json(made)
        return
    say(f'potluck join "{made["url"]}/#{made["text"]}"')
    say(f"This is shown once. To take it back: potluck invite revoke {url} {made['invite']['id']}")


@invites.command("list")
def list_invites(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """All that were made, without their secrets."""
    listed = client_of(url, key).admin("GET", "invites")
    if as_json:
        say_json(listed)
        return
    table = Table("id", "made", "uses left", "expires", "account", "state", box=None)
    for invite in listed["invites"]:
        uses = "any" if invite["uses_left"] is None else str(invite["uses_left"])
        expires = _NEVER if invite["expires"] is None else _date(invite["expires"])
        state = "revoked" if invite["revoked"] else "valid"
        table.add_row(invite["id"], _date(invite["created"]), uses, expires, invite["account"] or "each its own", state)
    console.print(table)


@invites.command("revoke")
def revoke_invite(
    url: Url,
    id: Id,
    cut: Annotated[bool, typer.Option("--nodes", help="Revoke the nodes that came by it, too.")] = False,
    key: Key = "",
) -> None:
    """Let nobody new come by it, and tell who came."""
    done = client_of(url, key).admin("DELETE", f"invites/{id}", nodes=str(cut).lower())
    say(f"Invite {id} is revoked.")
    for node in done["nodes"]:
        say(f"Node {node['name']} ({node['key'][:_SHORT]}) came by it{', and is cut' if cut else ' and stays'}.")


@keys.command("create")
def create_key(
    url: Url,
    account: Annotated[str, typer.Option(metavar="NAME", help="Whose credits its requests spend.")],
    admin: Annotated[bool, typer.Option("--admin", help="It may do all that the owner may.")] = False,
    per_minute: Annotated[int, typer.Option(metavar="N", help="Requests a minute; 0: any number.", min=0)] = 600,
    as_json: AsJson = False,
    key: Key = "",
) -> None:
    """Print a new API key."""
    made = client_of(url, key).admin("POST", "keys", {"account": account, "admin": admin, "per_minute": per_minute})
    if as_json:
        say_json(made)
        return
    say(made["secret"])
    say(f"This is shown once. To take it back: potluck key revoke {url} {made['key']['id']}")


@keys.command("list")
def list_keys(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """All that were made, without their secrets."""
    listed = client_of(url, key).admin("GET", "keys")
    if as_json:
        say_json(listed)
        return
    table = Table("id", "made", "account", "admin", "requests a minute", "state", box=None)
    for each in listed["keys"]:
        limit = "any" if each["per_minute"] is None else str(each["per_minute"])
        state = "revoked" if each["revoked"] else "valid"
        admin = "yes" if each["admin"] else "no"
        table.add_row(each["id"], _date(each["created"]), each["account"], admin, limit, state)
    console.print(table)


@keys.command("revoke")
def revoke_key(url: Url, id: Id, key: Key = "") -> None:
    """It opens nothing from now on."""
    client_of(url, key).admin("DELETE", f"keys/{id}")
    say(f"API key {id} is revoked.")


@nodes.command("list")
def list_nodes(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """All that ever joined, and how many of their audits they passed."""
    known = _nodes(url, key)
    if as_json:
        say_json({"nodes": known})
        return
    table = Table("node", "name", "account", "invite", "audits", "state", box=None)
    for node in known:
        audits = f"{node['audits_passed']} of {node['audits_passed'] + node['audits_failed']}"
        state = "revoked" if node["revoked"] else "trusted" if node["trusted"] else "known"
        table.add_row(node["key"][:_SHORT], node["name"], node["account"], node["invite"] or "none", audits, state)
    console.print(table)


@nodes.command("revoke")
def revoke_node(url: Url, node: NodeKey, key: Key = "") -> None:
    """Cut it at once, and let it in no more."""
    marked = _mark(url, node, key, revoked=True)
    say(f"Node {marked['name']} is revoked.")


@nodes.command("restore")
def restore_node(url: Url, node: NodeKey, key: Key = "") -> None:
    """Let a revoked one in again."""
    marked = _mark(url, node, key, revoked=False)
    say(f"Node {marked['name']} may join again.")


@nodes.command("trust")
def trust_node(
    url: Url,
    node: NodeKey,
    off: Annotated[bool, typer.Option("--off", help="Do not trust it any more.")] = False,
    key: Key = "",
) -> None:
    """Take its word when nodes disagree."""
    marked = _mark(url, node, key, trusted=not off)
    say(f"Node {marked['name']} is {'not trusted any more' if off else 'trusted'}.")


def _nodes(url: str, key: str) -> list[Json]:
    known: list[Json] = client_of(url, key).admin("GET", "nodes")["nodes"]
    return known


def _mark(url: str, digits: str, key: str, **marks: bool) -> Json:
    found = [node["key"] for node in _nodes(url, key) if node["key"].startswith(digits.lower())]
    if len(found) != 1:
        raise PotluckError(f"{len(found) or 'No'} nodes have keys that begin with {digits!r}; name one.")
    return client_of(url, key).admin("POST", f"nodes/{found[0]}", dict(marks))


def account(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """What your nodes have earned, and what you have spent."""
    info = client_of(url, key).account()
    if as_json:
        say_json(info)
        return
    say(f"Account {info['account']}: {info['credits']} credits of {info['earned']} earned; {info['spent']} are spent.")
    say(f"{info['pending']} more wait until audits have covered them.")
    say(f"In the queue its requests have the weight {info['weight']}.")
    for node in info["nodes"]:
        say(f"Node {node['name']} ({node['key'][:_SHORT]}) earns for it.")


def parse_lifetime(text: str) -> float | None:
    """`30m`, `12h` or `7d` in seconds; None for `never`. Raises PotluckError for anything else."""
    if text == _NEVER:
        return None
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None or not int(match[1]):
        raise PotluckError(f"{text!r} is no time to live: write it as 30m, 12h or 7d, or never.")
    return int(match[1]) * _UNITS[match[2]]


def _date(unix: float) -> str:
    return datetime.fromtimestamp(unix).strftime("%Y-%m-%d %H:%M")
