"""The commands that decide who may use a swarm: `potluck invite | key | node` for its owner, and `potluck account`."""

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
"""The default lifetime of an invite."""
_SHORT = 16
"""Hex digits of a node's key that are shown. Commands accept fewer if they are enough to tell two nodes apart."""

Json = dict[str, Any]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id that the list shows.")]
NodeKey = Annotated[str, typer.Argument(metavar="NODE", help="The first digits of its key, from the list.")]

invites = typer.Typer(no_args_is_help=True, help="Make, list and revoke invites, which let nodes join.")
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys, which let people ask.")
nodes = typer.Typer(no_args_is_help=True, help="Pause your own nodes; list, revoke and trust any node.")


@invites.command("create")
def create_invite(
    url: Url,
    uses: Annotated[
        int | None, typer.Option(metavar="N", help="The nodes that may use it. Default: any number.", min=1)
    ] = None,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="How long it is valid: 30m, 12h, 7d or never.")
    ] = LIFETIME,
    account: Annotated[
        str | None, typer.Option(metavar="NAME", help="The account that earns. Default: one a node.")
    ] = None,
    as_json: AsJson = False,
    key: Key = "",
) -> None:
    """Make an invite and print the command that joins with it."""
    body = {"uses": uses, "lifetime_s": parse_lifetime(expires), "account": account}
    made = client_of(url, key).admin("POST", "invites", body)
    if as_json:
        say_json(made)
        return
    say(f'potluck join "{made["url"]}/#{made["text"]}"')
    say(f"This invite is shown only once. To revoke it: potluck invite revoke {url} {made['invite']['id']}")


@invites.command("list")
def list_invites(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """List all invites, without their secrets."""
    listed = client_of(url, key).admin("GET", "invites")
    if as_json:
        say_json(listed)
        return
    table = Table("id", "made", "uses left", "expires", "account", "state", box=None)
    for invite in listed["invites"]:
        uses = "any" if invite["uses_left"] is None else str(invite["uses_left"])
        expires = expiry_of(invite["expires"])
        state = "revoked" if invite["revoked"] else "valid"
        table.add_row(invite["id"], _date(invite["created"]), uses, expires, invite["account"] or "one a node", state)
    console.print(table)


@invites.command("revoke")
def revoke_invite(
    url: Url,
    id: Id,
    cut: Annotated[bool, typer.Option("--nodes", help="Also revoke the nodes that used it.")] = False,
    key: Key = "",
) -> None:
    """Stop new nodes from joining with an invite, and list those that did."""
    done = client_of(url, key).admin("DELETE", f"invites/{id}", nodes=str(cut).lower())
    say(f"Invite {id} is revoked.")
    for node in done["nodes"]:
        say(f"Node {node['name']} ({node['key'][:_SHORT]}) joined with it and {'is cut off' if cut else 'stays'}.")


@keys.command("create")
def create_key(
    url: Url,
    account: Annotated[str, typer.Option(metavar="NAME", help="The account that pays for its requests.")],
    admin: Annotated[bool, typer.Option("--admin", help="Allow everything that the owner may do.")] = False,
    per_minute: Annotated[int, typer.Option(metavar="N", help="The most requests a minute; 0: any.", min=0)] = 600,
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A model that it may ask. Default: all.")
    ] = None,
    as_json: AsJson = False,
    key: Key = "",
) -> None:
    """Make an API key and print it."""
    wish = {"account": account, "admin": admin, "per_minute": per_minute, "models": model or []}
    made = client_of(url, key).admin("POST", "keys", wish)
    if as_json:
        say_json(made)
        return
    say(made["secret"])
    say(f"This key is shown only once. To revoke it: potluck key revoke {url} {made['key']['id']}")


@keys.command("list")
def list_keys(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """List all API keys, without their secrets."""
    listed = client_of(url, key).admin("GET", "keys")
    if as_json:
        say_json(listed)
        return
    table = Table("id", "made", "account", "admin", "requests a minute", "models", "state", box=None)
    for each in listed["keys"]:
        limit = "any" if each["per_minute"] is None else str(each["per_minute"])
        state = "revoked" if each["revoked"] else "valid"
        admin = "yes" if each["admin"] else "no"
        models = ", ".join(each["models"]) or "all"
        table.add_row(each["id"], _date(each["created"]), each["account"], admin, limit, models, state)
    console.print(table)


@keys.command("revoke")
def revoke_key(url: Url, id: Id, key: Key = "") -> None:
    """Revoke an API key; it stops working at once."""
    client_of(url, key).admin("DELETE", f"keys/{id}")
    say(f"API key {id} is revoked.")


@nodes.command("list")
def list_nodes(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """List all nodes that ever joined, and the audits that they passed."""
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
    """Cut a node off at once, and refuse it from now on."""
    marked = _mark(url, node, key, revoked=True)
    say(f"Node {marked['name']} is revoked.")


@nodes.command("restore")
def restore_node(url: Url, node: NodeKey, key: Key = "") -> None:
    """Readmit a node that was revoked or quarantined."""
    marked = _mark(url, node, key, revoked=False)
    say(f"Node {marked['name']} may join again.")


@nodes.command("trust")
def trust_node(
    url: Url,
    node: NodeKey,
    off: Annotated[bool, typer.Option("--off", help="Stop trusting the node.")] = False,
    key: Key = "",
) -> None:
    """Believe a node when nodes disagree, and let it guess."""
    marked = _mark(url, node, key, trusted=not off)
    say(f"Node {marked['name']} is {'no longer trusted' if off else 'trusted'}.")


def _nodes(url: str, key: str) -> list[Json]:
    known: list[Json] = client_of(url, key).admin("GET", "nodes")["nodes"]
    return known


def _mark(url: str, digits: str, key: str, **marks: bool) -> Json:
    found = [node["key"] for node in _nodes(url, key) if node["key"].startswith(digits.lower())]
    if len(found) != 1:
        raise PotluckError(f"{len(found) or 'No'} nodes have keys that begin with {digits!r}: name exactly one node.")
    return client_of(url, key).admin("POST", f"nodes/{found[0]}", dict(marks))


def account(url: Url, as_json: AsJson = False, key: Key = "") -> None:
    """Show what your nodes have earned and what you have spent."""
    info = client_of(url, key).account()
    if as_json:
        say_json(info)
        return
    say(f"Account {info['account']} has {info['credits']} credits: {info['earned']} earned, {info['spent']} spent.")
    say(f"{info['pending']} more credits are pending until audits have covered them.")
    say(f"Its requests have the weight {info['weight']} in the queue.")
    for node in info["nodes"]:
        say(f"Node {node['name']} ({node['key'][:_SHORT]}) earns for this account.")


def parse_lifetime(text: str) -> float | None:
    """`30m`, `12h` or `7d` in seconds; None for `never`. Raises PotluckError for anything else."""
    if text == _NEVER:
        return None
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None or not int(match[1]):
        raise PotluckError(f"{text!r} is not a lifetime: write 30m, 12h, 7d or never.")
    return int(match[1]) * _UNITS[match[2]]


def expiry_of(unix: float | None) -> str:
    """The time at which an invite expires, for people."""
    return _NEVER if unix is None else _date(unix)


def _date(unix: float) -> str:
    return datetime.fromtimestamp(unix).strftime("%Y-%m-%d %H:%M")
