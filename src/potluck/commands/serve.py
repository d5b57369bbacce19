"""`potluck serve`: the coordinator of a model, as a process."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potluck.client import checked_url
from potluck.commands import owner
from potluck.commands.bars import checking
from potluck.commands.running import log_to_console, run
from potluck.commands.terminal import Context, Engine, Model, QuantizeTo, say, waiting
from potluck.errors import PotluckError
from potluck.types import Attention, Audience, RowFormat

if TYPE_CHECKING:
    from potluck.coordinator.http.office import Office

DEFAULT_PORT = 8470

DATABASE_HELP = "Such as postgresql://anna@host/potluck; default: a file."


def serve(
    model: Model,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="To listen on; default: all.")] = None,
    port: Annotated[int, typer.Option(metavar="N", help="0 takes a free one.", min=0, max=65535)] = DEFAULT_PORT,
    engine: Engine = None,
    quantize: QuantizeTo = None,
    context: Context = None,
    attention: Annotated[
        Attention,
        typer.Option(metavar="KIND", show_default=False, help="exact (default): the same bits always; fast: quicker."),
    ] = Attention.EXACT,
    rows: Annotated[
        RowFormat,
        typer.Option(
            metavar="TYPE", show_default=False, help="On the wire. f32 (default): exact; f16: half the bytes."
        ),
    ] = RowFormat.F32,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Where all reach it; no other is served.")] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Speak TLS with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's private key (PEM).")] = None,
    local: Annotated[bool, typer.Option("--local", help="For this machine alone: without keys and invites.")] = False,
    public: Annotated[bool, typer.Option("--open", help="For everybody: whoever comes may join, and ask.")] = False,
    database: Annotated[str | None, typer.Option(metavar="URL", help=DATABASE_HELP)] = None,
    audit: Annotated[float, typer.Option(metavar="SHARE", help="Of all work, to be checked.", min=0.0, max=1.0)] = 0.02,
) -> None:
    """Be the coordinator of a model, which nodes join and programs ask."""
    from potluck.coordinator.app import ServeConfig, make_app
    from potluck.coordinator.http.office import open_office
    from potluck.coordinator.members.store import open_file, open_store
    from potluck.coordinator.server import Tls, make_server
    from potluck.models.sources import find_model
    from potluck.wire.identity import Identity, coordinator_key, data_folder, fingerprint

    log_to_console()
    proven_url = checked_url(url) if url is not None else ""
    audience, host = _audience(local, public), _host(host, local)
    if (tls_cert is None) != (tls_key is None):
        raise PotluckError("TLS takes a certificate and its key: give both --tls-cert and --tls-key.")
    tls = Tls(tls_cert, tls_key) if tls_cert and tls_key else None
    identity = Identity.load(coordinator_key())
    listener = _listen(host, port)  # before the model is read: a port in use is known at once
    with closing(open_store(database) if database else open_file(data_folder() / "potluck.db")) as store:
        found = find_model(model)
        with checking(found.path) as advance:
            manifest = found.manifest(advance)
        url = proven_url or f"{'https' if tls else 'http'}://{_reachable(host)}:{listener.getsockname()[1]}"
        office = open_office(store, audience, identity, url, proven_url)
        config = ServeConfig(found, engine, quantize, attention, rows, context, audit)
        with waiting("Reading the tokenizer"):
            app = make_app(config, manifest, office)
        server = make_server(app, tls)
        say(f"Serving {manifest.name} at {url} ({manifest.layers} layers, {manifest.digest[:16]}).")
        _tell_who_may(office, audience, fingerprint(identity.public))
        run(lambda: server.serve([listener]))
    say("Stopped.")


def _audience(local: bool, public: bool) -> Audience:
    if local and public:
        raise PotluckError("A swarm is for this machine alone or for everybody: --local and --open exclude each other.")
    return Audience.LOCAL if local else Audience.OPEN if public else Audience.PRIVATE


def _host(asked: str | None, local: bool) -> str:
    if not local:
        return asked or "0.0.0.0"
    if asked is not None:
        raise PotluckError("--local listens on 127.0.0.1: leave --host out.")
    return "127.0.0.1"


def _tell_who_may(office: Office, audience: Audience, key: str) -> None:
    """How others join and ask."""
    from potluck.coordinator.http.office import keep_admin_key
    from potluck.wire.identity import admin_key

    url = office.url
    say(f"This coordinator's key is {key}.")
    if audience is Audience.LOCAL:
        say(f"On this machine: potluck join {url}")
        return
    keep_admin_key(office.keys, admin_key())
    if audience is Audience.PRIVATE and any(member.invite for member in office.members.all()):
        say(f"Nodes that came before may come again: potluck join {url}")
        say(f"Others need an invite: potluck invite create {url}. Requests need a key:")
    elif audience is Audience.PRIVATE:
        invite, _ = office.invites.create(lifetime_s=owner.parse_lifetime(owner.LIFETIME))
        say(f'On each machine: potluck join "{url}/#{invite}"')
        say(f"The invite is good for {owner.LIFETIME}; potluck invite makes others. Requests need a key:")
    else:
        say(f"On each machine: potluck join {url}")
        say("Whoever reaches this address can join and use the model. Who has a key need not come last:")
    say(f"potluck key create {url} --account NAME")
    say(f"Your own is in {admin_key()}.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise PotluckError(f"Cannot listen on {host} port {port}: {error.strerror or error}.") from error


def _reachable(host: str) -> str:
    """The address to tell others: of the interface that leads out, when listening on all."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: no packet is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
