"""`potluck serve` runs the coordinator of a model."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing, nullcontext
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from potluck import __version__
from potluck.commands import owner
from potluck.commands.bars import checking
from potluck.commands.fleet import open_fleet
from potluck.commands.listening import listen, reachable
from potluck.commands.running import log_to_console, run
from potluck.commands.terminal import Context, Engine, QuantizeTo, Revision, say, waiting
from potluck.errors import PotluckError, StoreError
from potluck.network import checked_url
from potluck.types import Attention, Audience, EngineKind, RowFormat

if TYPE_CHECKING:
    from uvicorn import Server

    from potluck.commands.offer import Offered
    from potluck.coordinator.app import ModelConfig
    from potluck.coordinator.http.office import Office
    from potluck.coordinator.members.store import Store
    from potluck.coordinator.server import Tls
    from potluck.models.manifest import Manifest
    from potluck.models.sources import Found
    from potluck.wire.beacon import Beacon
    from potluck.wire.identity import Identity

DEFAULT_PORT = 8470

HOST_HELP = "The address to listen on. Default: all addresses."
PORT_HELP = "The port; 0: a free one."
ATTENTION_HELP = "The KV cache: exact (default), or fast, not bit-exact."
ROWS_HELP = "Rows on the wire: f32 (default), f16 (half), q8 (1/4)."
URL_HELP = "The URL for others; nodes must have dialled it."
CERT_HELP = "The TLS certificate and its chain (PEM)."
CERT_KEY_HELP = "The certificate's private key (PEM)."
LOCAL_HELP = "Serve this machine only, without keys and invites."
OPEN_HELP = "Serve everybody: anyone may join and ask."
ANNOUNCE_HELP = "Tell this network, where potluck join then lists it."
DATABASE_HELP = "A database, as postgresql://host/db. Default: a file."
FORWARDED_HELP = "The proxies in front, as 127.0.0.1 or 10.0.0.0/8."
AUDIT_HELP = "Share of work to audit."

Kind = Annotated[Attention, typer.Option(metavar="KIND", show_default=False, help=ATTENTION_HELP)]
Proxies = Annotated[list[str] | None, typer.Option(metavar="IP", show_default=False, help=FORWARDED_HELP)]
Rows = Annotated[RowFormat, typer.Option(metavar="TYPE", show_default=False, help=ROWS_HELP)]


def serve(
    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL", hidden=True)] = None,
    hub_repository: Annotated[str | None, typer.Option("--hf-repo", "-hf", metavar="NAME", hidden=True)] = None,
    revision: Revision = None,
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
    forwarded_for: Proxies = None,
    name: Annotated[list[str] | None, typer.Option(metavar="NAME", hidden=True)] = None,
    cors: Annotated[list[str] | None, typer.Option(metavar="ORIGIN", hidden=True)] = None,
    local: Annotated[bool, typer.Option("--local", help=LOCAL_HELP)] = False,
    public: Annotated[bool, typer.Option("--open", help=OPEN_HELP)] = False,
    announce: Annotated[bool, typer.Option("--announce", help=ANNOUNCE_HELP)] = False,
    database: Annotated[str | None, typer.Option(metavar="URL", help=DATABASE_HELP)] = None,
    fleet: Annotated[str | None, typer.Option(metavar="URL", envvar="POTLUCK_FLEET", hidden=True)] = None,
    audit: Annotated[float, typer.Option(metavar="SHARE", help=AUDIT_HELP, min=0.0, max=1.0)] = 0.02,
    guesser: Annotated[str | None, typer.Option(metavar="MODEL", hidden=True)] = None,
    check: Annotated[bool, typer.Option("--check", hidden=True)] = False,
    tries: Annotated[bool, typer.Option("--try", hidden=True)] = False,
    offer: Annotated[Path | None, typer.Option("--offer", metavar="LIST", hidden=True)] = None,
) -> None:
    """Run the coordinator of MODELs: GGUF files, directories or names."""
    from potluck.coordinator.app import ModelConfig, ServeConfig, make_app
    from potluck.coordinator.server import make_server

    log_to_console()
    proven_url = checked_url(url) if url is not None else ""
    audience, host = _audience(local, public), _host(host, local)
    tls, proxies = _tls(tls_cert, tls_key), _proxies(forwarded_for or [], local)
    origins, wanted = _origins(cors or [], audience), _models(models or [], hub_repository, offer is not None)
    names, identity = _names(name or [], len(wanted)), _identity()
    listener = listen(host, port)  # before the model is read: a port in use is known at once
    url = proven_url or f"{'https' if tls else 'http'}://{reachable(host)}:{listener.getsockname()[1]}"
    beacon = _beacon(url, audience) if announce else None
    joined = open_fleet(fleet, identity, url, database, local=local) if fleet is not None else None
    with closing(_store(database)) as store:
        found, small = _find(wanted, revision), _small(guesser, len(wanted))
        usual = partial(ModelConfig, attention=attention, rows=rows, audit=audit)
        served = partial(usual, engine=engine, quantize=quantize, context=context, tries=tries, guesser=small)
        choices = tuple(served(each, aliases=own[1:]) for each, own in zip(found, names, strict=True))
        manifests = _manifests(choices, names, check)
        listed = _offered(offer, usual, choices, manifests)
        config = ServeConfig(models=choices, offered=listed.models, proxies=proxies, origins=origins)
        opened = _opening(in_fleet=bool(fleet))
        with closing(opened(store, audience, identity, url, proven_url, origins)) as office:
            with waiting("Reading the tokenizer"):
                app = make_app(config, manifests, office, listed.outlines, joined)
            server = make_server(app, tls, proxies)
            _tell_what(manifests, listed.outlines, url)
            _tell_who_may(office, audience, identity)
            told = beacon and beacon.of(" and ".join(each.name for each in (*manifests, *listed.outlines)))
            run(lambda: _serve(server, listener, told, identity, app.state.member))
    say("Stopped.")


def _store(database: str | None) -> Store:
    """The database at this URL, or the file of this machine. Raises StoreError."""
    from potluck.coordinator.members.store import open_file, open_store
    from potluck.wire.identity import data_folder

    return open_store(database) if database else open_file(data_folder() / "potluck.db")


def _opening(*, in_fleet: bool) -> Callable[[Store, Audience, Identity, str, str, Sequence[str]], Office]:
    """Opens the office of a coordinator that keeps on this machine what it has not stored."""
    from potluck.coordinator.http.office import open_office
    from potluck.wire.identity import credits_folder

    return partial(open_office, in_fleet=in_fleet, ahead=credits_folder())


def _identity() -> Identity:
    from potluck.wire.identity import Identity, coordinator_key, tighten_data

    tighten_data()
    return Identity.load(coordinator_key())


def _beacon(url: str, audience: Audience) -> Beacon:
    """What to announce. Raises PotluckError when others cannot reach this coordinator, or not by its address."""
    from potluck.wire.beacon import beacon_of

    if audience is Audience.LOCAL:
        raise PotluckError("--local serves this machine only, so no other needs to know: leave --announce out.")
    return beacon_of(url, __version__, audience is Audience.PRIVATE)


async def _serve(
    server: Server,
    listener: socket.socket,
    beacon: Beacon | None,
    identity: Identity,
    member: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> None:
    """Serve, as a member of the fleet if there is one, and announce the coordinator meanwhile if there is a beacon."""
    from potluck.wire.identity import fingerprint

    async with AsyncExitStack() as meanwhile:
        await meanwhile.enter_async_context(member())
        if beacon is not None:
            from potluck.coordinator.announcing import announced

            await meanwhile.enter_async_context(announced(beacon, fingerprint(identity.public)))
        await server.serve([listener])


def _find(names: Sequence[str], revision: str | None) -> list[Found]:
    """The models of these names. Raises PotluckError when one cannot be found."""
    from potluck.models.sources import find_model

    if revision is not None and len(names) > 1:
        raise PotluckError("--revision is that of one model: serve several with names such as hf:OWNER/REPO@REVISION.")
    return [find_model(name, revision) for name in names]


def _manifests(choices: Sequence[ModelConfig], names: Sequence[tuple[str, ...]], check: bool) -> list[Manifest]:
    """The manifests under their public names. All models are looked at before the weights of one are read.

    Raises PotluckError when one cannot be served, or when two are the same.
    """
    tested = [_can_be_served(each, check) for each in choices]
    called = [own[0] if own else each.model.outline().name for each, own in zip(choices, names, strict=True)]
    for name in called:
        if called.count(name) > 1:
            raise PotluckError(f"Two models have the name {name}: give each a name of its own with --name.")
    manifests = [_called(_checked(each.model), own) for each, own in zip(choices, names, strict=True)]
    for place, manifest in enumerate(manifests):
        if any(manifest.digest == other.digest for other in manifests[:place]):
            raise PotluckError(f"{manifest.name} is named twice: leave one out, and give it further names with --name.")
    for each, manifest, is_tested in zip(choices, manifests, tested, strict=True):
        if is_tested:
            _prove(each.model, manifest)
    return manifests


def _can_be_served(config: ModelConfig, check: bool) -> bool:
    """Whether the model is to be tested first. Raises PotluckError, without reading weights, if it cannot be served.

    check: whether the owner wants the test.
    """
    from potluck.coordinator.model_choice import choose_context, choose_engine
    from potluck.models.spans import is_proved

    outline = config.model.outline()
    chosen, _ = choose_engine(outline, config.engine, config.quantize, tries=config.tries)
    context = choose_context(outline, config.context)
    if config.context is not None and config.context > context:
        say(f"The context of {outline.name} is {context} tokens, so sessions have no more than these.")
    tested = check or (config.tries and not is_proved(outline))
    if tested and (chosen is not EngineKind.LLAMACPP or config.model.hub is not None):
        raise PotluckError("The self-test is for the llama.cpp engine, and needs a model on this machine.")
    return tested


def _prove(found: Found, manifest: Manifest) -> None:
    """Raises PotluckError unless parts of the model compute what the model does."""
    from potluck.engine.proof import prove
    from potluck.node.hardware import free_memory

    with waiting("Testing whether the model's parts compute what it does"):
        prove(found.path, free_memory() // 3)  # beside it, the system keeps what was read
    say(f"The parts of {manifest.name} compute what it does, bit for bit.")


def _models(names: Sequence[str], hub_repository: str | None, offers: bool) -> list[str]:
    if offers and not names and hub_repository is None:
        return []
    if bool(names) == (hub_repository is not None):
        raise PotluckError("Name a model: a path, a name such as hf:OWNER/REPO:Q4_K_M, or -hf OWNER/REPO:Q4_K_M.")
    return [*names] or [f"hf:{hub_repository}"]


def _tls(certificate: Path | None, key: Path | None) -> Tls | None:
    from potluck.coordinator.server import Tls

    if (certificate is None) != (key is None):
        raise PotluckError("TLS needs a certificate and its key: give both --tls-cert and --tls-key.")
    return Tls(certificate, key) if certificate and key else None


def _proxies(texts: Sequence[str], local: bool) -> tuple[str, ...]:
    """The networks whose word about a caller's address is taken. Raises PotluckError for a text that names none."""
    networks = []
    for text in (part.strip() for each in texts for part in each.split(",")):
        try:
            network = ip_network(text, strict=False)
        except ValueError as error:
            raise PotluckError(
                f"--forwarded-for takes addresses such as 127.0.0.1 or 10.0.0.0/8, not {text!r}."
            ) from error
        if not network.prefixlen:
            raise PotluckError(f"--forwarded-for {text} would believe everybody: name your proxy's address instead.")
        networks.append(str(network))
    if networks and local:
        raise PotluckError("--local cannot be reached through a proxy: leave --forwarded-for out.")
    return tuple(networks)


def _origins(texts: Sequence[str], audience: Audience) -> tuple[str, ...]:
    """The origins of the pages that may ask. Raises PotluckError for a text that names none."""
    from potluck.coordinator.http.cors import EVERYWHERE, checked_origin

    origins = tuple(checked_origin(part) for each in texts for part in each.split(","))
    if EVERYWHERE in origins and audience is not Audience.OPEN:
        raise PotluckError("--cors '*' lets every web page ask, which only --open may: name the pages' origins.")
    return origins


def _names(texts: Sequence[str], models: int) -> list[tuple[str, ...]]:
    """The public names of each model: all names are those of a single one, and several have one each.

    Raises PotluckError for one that no model may have, or when several models and their names do not match.
    """
    from potluck.models.vetting import is_name

    names = tuple(dict.fromkeys(text.strip() for text in texts))
    for name in names:
        if not is_name(name):
            raise PotluckError(f"--name takes up to 255 printable characters, not {name!r}.")
    if not models and names:
        raise PotluckError("--name is for MODEL: the list of --offer has names of its own.")
    if models > 1 and names and len(names) != models:
        raise PotluckError(f"Several models have one --name each: give {models} names in their order, or none.")
    return [names] if models == 1 else [(name,) for name in names] or [()] * models


def _small(name: str | None, models: int) -> Found | None:
    """The model that is to guess. Raises PotluckError, without reading weights, if it cannot guess for any model, or if
    there are several for which it could.
    """
    from potluck.coordinator.guessers import check_guesser
    from potluck.models.sources import find_model

    if name is None:
        return None
    if models != 1:
        raise PotluckError("--guesser guesses for one model: let nodes guess for several, with potluck join --guesser.")
    found = find_model(name)
    check_guesser(found)
    _checked(found)
    return found


def _checked(found: Found) -> Manifest:
    """The manifest, for which all weights are read the first time."""
    with checking(found.nbytes) as advance:
        return found.manifest(advance)


def _called(manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    """The manifest under the first of the names, if there is one."""
    from msgspec import structs

    return structs.replace(manifest, name=names[0]) if names else manifest


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


def _offered(
    path: Path | None,
    usual: Callable[..., ModelConfig],
    served: Sequence[ModelConfig],
    manifests: Sequence[Manifest],
) -> Offered:
    """The models that are only offered. usual: makes the choices about one. Raises PotluckError for a wrong list."""
    from potluck.commands.offer import Offered, offered

    if path is None:
        return Offered()
    taken = [name for each, one in zip(manifests, served, strict=True) for name in (each.name, *one.aliases)]
    with waiting("Looking up the models that are offered"):
        return offered(path, usual, taken)


def _tell_what(manifests: Sequence[Manifest], outlines: Sequence[Manifest], url: str) -> None:
    for each in manifests:
        say(f"Serving {each.name} at {url} ({each.layers} layers, {each.digest[:16]}).")
    for each in outlines:
        say(f"Offering {each.name} at {url} ({each.layers} layers): it is loaded when somebody asks for it.")


def _tell_who_may(office: Office, audience: Audience, identity: Identity) -> None:
    """Tell the owner how others can join and ask."""
    from potluck.coordinator.http.office import keep_admin_key
    from potluck.wire.identity import admin_key, fingerprint

    url = office.url
    say(f"This coordinator's key is {fingerprint(identity.public)}.")
    if audience is Audience.LOCAL:
        say(f"To add a node on this machine: potluck join {url}")
        return
    keep_admin_key(office.keys, admin_key())
    if audience is Audience.PRIVATE and any(member.invite for member in office.members.all()):
        say(f"Nodes that have joined before may join again: potluck join {url}")
        say(f"Others need an invite: potluck invite create {url}. Requests need an API key:")
    elif audience is Audience.PRIVATE:
        _show_invite(office)
    else:
        say(f"To add a machine, run there: potluck join {url}")
        say("Anyone who reaches this address can join and use the model. Requests without an API key come last:")
    say(f"potluck key create {url} --account NAME")
    say(f"Your own is in {admin_key()}.")


def _show_invite(office: Office) -> None:
    from potluck.coordinator.http.office import keep_invite
    from potluck.wire.identity import first_invite

    try:
        text, invite = keep_invite(office.invites, first_invite(), owner.parse_lifetime(owner.LIFETIME))
    except StoreError as error:
        say(f"No invite can be made now, so no new node can join. {error} Requests need an API key:")
        return
    say(f'To add a machine, run there: potluck join "{office.url}/#{text}"')
    expires = owner.expiry_of(invite.expires)
    say(f"This invite expires on {expires}; potluck invite create makes more. Requests need an API key:")
