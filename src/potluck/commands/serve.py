"""`potluck serve` runs the coordinator of a model."""

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
    from potluck.coordinator.server import Tls

DEFAULT_PORT = 8470

HOST_HELP = "The address to listen on. Default: all addresses."
PORT_HELP = "The port; 0: a free one."
ATTENTION_HELP = "The KV cache: exact (default), or fast and not bit-exact."
ROWS_HELP = "Rows on the wire: f32 (default), or f16: half the bytes."
URL_HELP = "The URL for others; nodes must have dialled it."
CERT_HELP = "The TLS certificate and its chain (PEM)."
CERT_KEY_HELP = "The certificate's private key (PEM)."
LOCAL_HELP = "Serve this machine only, without keys and invites."
OPEN_HELP = "Serve everybody: anyone may join and ask."
DATABASE_HELP = "A database, as postgresql://host/db. Default: a file."
AUDIT_HELP = "The share of work to audit."

Kind = Annotated[Attention, typer.Option(metavar="KIND", show_default=False, help=ATTENTION_HELP)]
Rows = Annotated[RowFormat, typer.Option(metavar="TYPE", show_default=False, help=ROWS_HELP)]


def serve(
    model: Model,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help=HOST_HELP)] = None,
    port: Annotated[int, typer.Option(metavar="N", help=PORT_HELP, min=0, max=65535)] = DEFAULT_PORT,
    engine: Engine = None,
    quantize: QuantizeTo = None,
    context: Context = None,
    attention: Kind = Attention.EXACT,
    rows: Rows = RowFormat.F32,
    url: Annotated[str | None, typer.Option(metavar="URL", help=URL_HELP)] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help=CERT_HELP)] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help=CERT_KEY_HELP)] = None,
    local: Annotated[bool, typer.Option("--local", help=LOCAL_HELP)] = False,
    public: Annotated[bool, typer.Option("--open", help=OPEN_HELP)] = False,
    database: Annotated[str | None, typer.Option(metavar="URL", help=DATABASE_HELP)] = None,
    audit: Annotated[float, typer.Option(metavar="SHARE", help=AUDIT_HELP, min=0.0, max=1.0)] = 0.02,
) -> None:
    """Run the coordinator of a model, for nodes and programs."""
    from potluck.coordinator.app import ServeConfig, make_app
    from potluck.coordinator.http.office import open_office
    from potluck.coordinator.members.store import open_file, open_store
    from potluck.coordinator.server import make_server
    from potluck.models.sources import find_model
    from potluck.wire.identity import Identity, coordinator_key, data_folder, fingerprint

    log_to_console()
    proven_url = checked_url(url) if url is not None else ""
    audience, host = _audience(local, public), _host(host, local)
    tls = _tls(tls_cert, tls_key)
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


def _tls(certificate: Path | None, key: Path | None) -> Tls | None:
    from potluck.coordinator.server import Tls

    if (certificate is None) != (key is None):
        raise PotluckError("TLS needs a certificate and its key: give both --tls-cert and --tls-key.")
    return Tls(certificate, key) if certificate and key else None


def _audience(local: bool, public: bool) -> Audience:
    if local and public:
        raise PotluckError("--local serves this machine only and --open serves everybody: give at most one of them.")
    return Audience.LOCAL if local else Audience.OPEN if public else Audience.PRIVATE


def _host(asked: str | None, local: bool) -> str:
    if not local:
        return asked or "0.0.0.0"
    if asked is not None:
        raise PotluckError("--local listens on 127.0.0.1 only: leave --host out.")
    return "127.0.0.1"


def _tell_who_may(office: Office, audience: Audience, key: str) -> None:
    """Tell the owner how others can join and ask."""
    from potluck.coordinator.http.office import keep_admin_key
    from potluck.wire.identity import admin_key

    url = office.url
    say(f"This coordinator's key is {key}.")
    if audience is Audience.LOCAL:
        say(f"To add a node on this machine: potluck join {url}")
        return
    keep_admin_key(office.keys, admin_key())
    if audience is Audience.PRIVATE and any(member.invite for member in office.members.all()):
        say(f"Nodes that have joined before may join again: potluck join {url}")
        say(f"Others need an invite: potluck invite create {url}. Requests need an API key:")
    elif audience is Audience.PRIVATE:
        invite, _ = office.invites.create(lifetime_s=owner.parse_lifetime(owner.LIFETIME))
        say(f'To add a machine, run there: potluck join "{url}/#{invite}"')
        say(f"This invite is valid for {owner.LIFETIME}; potluck invite create makes more. Requests need an API key:")
    else:
        say(f"To add a machine, run there: potluck join {url}")
        say("Anyone who reaches this address can join and use the model. Requests without an API key come last:")
    say(f"potluck key create {url} --account NAME")
    say(f"Your own is in {admin_key()}.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise PotluckError(f"Cannot listen on {host} port {port}: {error.strerror or error}.") from error


def _reachable(host: str) -> str:
    """The address to tell others. When listening on all addresses, it is that of the interface that leads out."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: no packet is sent
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
