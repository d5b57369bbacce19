"""The command line: `potluck serve | join | forget | plan | convert | trace | chat | demo`, and the commands of
`board`, `owner` and `contributor`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import chain
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from potluck import __version__, board, contributor, owner
from potluck.client import Client, checked_url, split_invite
from potluck.errors import PotluckError, SpanError
from potluck.terminal import AsJson, Key, OneScreen, Url, client_of, console, say, say_json
from potluck.types import Attention, Audience, EngineKind, Quantize, RowFormat, Span, even_spans

if TYPE_CHECKING:
    from potluck.coordinator.office import Office

DEFAULT_PORT = 8470
_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

MODEL_HELP = "A GGUF file, a Hugging Face directory, or a repository on the hub such as EleutherAI/gpt-neox-20b."
DATABASE_HELP = "Of keys, invites and credits, as postgresql://anna@host/potluck; default: a file in POTLUCK_DATA."
QUANTIZE_HELP = (
    "Of a Hugging Face model's weights: q8_0 (default), q4_0, f16 or bf16 with llamacpp; none (default), int8 or int4 "
    "with transformers."
)
MACHINE_HELP = "Such as 8G, 16G@40 or 16G@40x3: memory, GB/s of weights that it reads (default 10), how many."
DEMO_PROMPT = "What is a potluck dinner? Answer in two sentences."

app = typer.Typer(
    cls=OneScreen,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Run a large language model together: each computer hosts a few of its layers.",
)
app.add_typer(owner.invites, name="invite")
app.add_typer(owner.keys, name="key")
app.add_typer(owner.nodes, name="node")
for command in (contributor.pause, contributor.resume, contributor.leave):
    owner.nodes.command()(command)


def main() -> None:
    """An expected error is one sentence on stderr and exit status 1. Ctrl-C is an end like any other: status 0."""
    try:
        status = app(standalone_mode=False)
        if status == _INTERRUPTED:
            console.file.flush()
            os._exit(0)  # after Ctrl-C inside an import, Python would still end with the signal's own status
        sys.exit(status)
    except typer.exceptions.TyperException as error:  # a command line that is wrong
        _fail(str(getattr(error, "format_message", error.__str__)()), 2)
    except PotluckError as error:
        _fail(str(error), 1)


def _fail(sentence: str, status: int) -> NoReturn:
    text = sentence if sentence.startswith("Usage: ") else f"potluck: {sentence}"  # the help, where nothing was asked
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(text)
    sys.exit(status)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: all.")] = None,
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = DEFAULT_PORT,
    engine: Annotated[EngineKind | None, typer.Option(help="Default: the first that can run the model.")] = None,
    quantize: Annotated[Quantize | None, typer.Option(help=QUANTIZE_HELP)] = None,
    context: Annotated[int | None, typer.Option(help="Most tokens of a session, prompt included.", min=16)] = None,
    attention: Annotated[
        Attention, typer.Option(help="exact: the same bits always. fast: quicker long prompts, bits may vary.")
    ] = Attention.EXACT,
    rows: Annotated[
        RowFormat, typer.Option(help="Hidden states on the wire: f32 is exact, f16 half the bytes.")
    ] = RowFormat.F32,
    url: Annotated[str | None, typer.Option(help="Where all reach it; nodes that dialled another are refused.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Speak TLS with this certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key (PEM).")] = None,
    local: Annotated[bool, typer.Option("--local", help="For this machine alone: without keys and invites.")] = False,
    public: Annotated[bool, typer.Option("--open", help="For everybody: whoever comes may join, and ask.")] = False,
    database: Annotated[str | None, typer.Option(help=DATABASE_HELP)] = None,
    audit: Annotated[
        float, typer.Option(help="The share of all work that other nodes check; 0: none.", min=0.0, max=1.0)
    ] = 0.02,
) -> None:
    """Be the coordinator of a model, which nodes join and programs ask."""
    from potluck.coordinator.app import ServeConfig, Tls, make_app, make_server
    from potluck.coordinator.office import open_office
    from potluck.coordinator.store import open_file, open_store
    from potluck.models.sources import find_model
    from potluck.wire.identity import Identity, coordinator_key, data_folder, fingerprint

    _log_to_console()
    proven_url = checked_url(url) if url is not None else ""
    audience, host = _audience(local, public), _host(host, local)
    if (tls_cert is None) != (tls_key is None):
        raise PotluckError("TLS takes a certificate and its key: give both --tls-cert and --tls-key.")
    tls = Tls(tls_cert, tls_key) if tls_cert and tls_key else None
    identity = Identity.load(coordinator_key())
    listener = _listen(host, port)  # before the model is read: a port in use is known at once
    with closing(open_store(database) if database else open_file(data_folder() / "potluck.db")) as store:
        found = find_model(model)
        with _bar("Checking the model", _size(found.path)) as advance:
            manifest = found.manifest(advance)
        url = proven_url or f"{'https' if tls else 'http'}://{_reachable(host)}:{listener.getsockname()[1]}"
        office = open_office(store, audience, identity, url, proven_url)
        config = ServeConfig(found, engine, quantize, attention, rows, context, audit)
        server = make_server(make_app(config, manifest, office), tls)
        say(f"Serving {manifest.name} at {url} ({manifest.layers} layers, {manifest.digest[:16]}).")
        _tell_who_may(office, audience, fingerprint(identity.public))
        _run(lambda: server.serve([listener]))
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
    from potluck.coordinator.office import keep_admin_key
    from potluck.wire.identity import admin_key

    url = office.url
    say(f"This coordinator's key is {key}.")
    if audience is Audience.LOCAL:
        say(f"On this machine: potluck join {url}")
        return
    keep_admin_key(office.keys, admin_key())
    if audience is Audience.PRIVATE:
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


def _size(model: Path) -> int:
    files = [file for file in (model.iterdir() if model.is_dir() else [model]) if file.is_file()]
    weights = {file.suffix for file in files} & {".gguf", ".safetensors"} or {".bin"}
    return sum(file.stat().st_size for file in files if file.suffix in weights)


@app.command()
def join(
    url: Url,
    span: Annotated[str | None, typer.Argument(metavar="[SPAN]", help="Layers, as 12 or 12-15, from 0.")] = None,
    memory: Annotated[str | None, typer.Option(help="Such as 6G or 800M; default: what is free now.")] = None,
    threads: Annotated[int | None, typer.Option(help="Default: the physical cores.", min=1, max=1024)] = None,
    model: Annotated[Path | None, typer.Option(help="The same model on this machine: nothing is fetched.")] = None,
    name: Annotated[str | None, typer.Option(help="What others call this node; default: the host name.")] = None,
    upload: Annotated[float | None, typer.Option(help="Mbit/s to send at most; default: no limit.", min=0.1)] = None,
    hours: Annotated[str | None, typer.Option(help="When it may work, such as 22-07; default: always.")] = None,
    idle_only: Annotated[
        bool, typer.Option("--idle-only", help="Work only while no other program needs this machine.")
    ] = False,
) -> None:
    """Be a node: serve a few layers of the coordinator's model."""
    from potluck.node.agent import Agent, NodeConfig
    from potluck.node.hardware import free_memory, physical_cores
    from potluck.node.permit import Hours
    from potluck.planning.inventory import parse_memory
    from potluck.wire.identity import Identity, node_key
    from potluck.wire.origin import is_loopback

    _log_to_console()
    url, invite = split_invite(url)
    name = name or socket.gethostname()
    config = NodeConfig(
        url=url,
        name=name,
        span=Span.parse(span) if span is not None else None,
        model=model,
        memory=parse_memory(memory) if memory is not None else free_memory(),
        threads=threads or physical_cores(),
        identity=Identity.load(node_key(name)),
        invite=invite,
        upload=upload * 1e6 / 8 if upload is not None else None,
        hours=Hours.parse(hours) if hours is not None else None,
        idle_only=idle_only,
    )
    if url.startswith("http://") and not is_loopback(url):
        say(f"The line to {url} is not encrypted: whoever carries it can read all, and could change it.")
    with ConsoleReporter() as reporter:
        agent = Agent(config, reporter)
        _run(agent.run, agent.leave, contributor.handlers(agent.pause, agent.resume))
    say("Stopped.")


app.command()(contributor.leave)


@app.command()
def forget(url: Url) -> None:
    """Let the coordinator at this URL have another key next time."""
    from potluck.node.pins import Pins, pins_path
    from potluck.wire.origin import origin

    url, _ = split_invite(url)
    if not Pins(pins_path()).forget(origin(url)):
        raise PotluckError(f"No coordinator at {origin(url)} is known here.")
    say(f"The coordinator at {origin(url)} is forgotten.")


class ConsoleReporter:
    """What a node tells its owner: sentences, and a bar while it fetches (a line each tenth where no terminal is)."""

    def __init__(self) -> None:
        self._progress = Progress(console=console, transient=True)
        self._task = self._progress.add_task("Fetching", total=1.0, visible=False)
        self._tenth = 0

    def __enter__(self) -> ConsoleReporter:
        if console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if console.is_terminal:
            self._progress.stop()

    def say(self, text: str) -> None:
        say(text)

    def progress(self, fraction: float) -> None:
        if console.is_terminal:
            self._progress.update(self._task, completed=fraction, visible=fraction < 1)
        elif int(fraction * 10) > self._tenth:
            say(f"Fetched {fraction:.0%}.")
        self._tenth = int(fraction * 10)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    machines: Annotated[list[str], typer.Argument(metavar="MEMORY[@SPEED][xCOUNT]...", help=MACHINE_HELP)],
    round_trip: Annotated[float, typer.Option(help="Of a link to the coordinator, in milliseconds.", min=0)] = 1.0,
    bandwidth: Annotated[float | None, typer.Option(help="Of a link, in Mbit/s; default: no limit.", min=0.001)] = None,
    engine: Annotated[EngineKind | None, typer.Option(help="Default: the first that can run the model.")] = None,
    quantize: Annotated[Quantize | None, typer.Option(help=QUANTIZE_HELP)] = None,
    context: Annotated[int | None, typer.Option(help="Most tokens of a session, prompt included.", min=16)] = None,
    as_json: AsJson = False,
) -> None:
    """What machines would give: who serves which layers, and how fast."""
    from potluck.coordinator.app import DEFAULT_CONTEXT, ServeConfig, choose_engine, footprint
    from potluck.models.sources import find_model
    from potluck.planning.forecast import forecast, forecast_json, sentences
    from potluck.planning.inventory import parse_machines
    from potluck.planning.machine import Placed
    from potluck.planning.plan import place

    fleet = parse_machines(machines, round_trip / 1e3, inf if bandwidth is None else bandwidth * 1e6 / 8)
    found = find_model(model)
    with _bar("Checking the model", _size(found.path)) as advance:
        manifest = found.manifest(advance)
    kind = choose_engine(manifest, ServeConfig(found, engine, quantize))
    sizes = footprint(manifest, *kind, min(manifest.context, context or DEFAULT_CONTEXT))
    spans = place(sizes, fleet)
    placed = [Placed(machine, span) for machine, span in zip(fleet, spans, strict=True) if span is not None]
    told = forecast(sizes, placed)
    if as_json:
        say_json(forecast_json(sizes, placed, told))
        return
    table = Table("machine", "layers", "MiB", "tokens/s", box=None)
    for machine, span in zip(fleet, spans, strict=True):
        if span is None:
            table.add_row(machine.name, "none", "", "")
        else:
            table.add_row(machine.name, str(span), f"{sizes.of(span) >> 20}", f"{machine.rate(sizes, span):.1f}")
    console.print(table)
    for sentence in sentences(sizes, told):
        say(sentence)


@app.command()
def convert(
    model: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="A Hugging Face directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.gguf", help="The GGUF file to write.")],
    quantize: Annotated[Quantize, typer.Option(help="q8_0, q4_0, f16 or bf16.")] = Quantize.Q8_0,
) -> None:
    """Write a Hugging Face model as one GGUF file, for llama.cpp too."""
    from potluck.models.convert import QUANTIZE
    from potluck.models.modelfile import write_model_file
    from potluck.models.sources import local_source, open_model

    if quantize not in QUANTIZE:
        raise PotluckError(f"A GGUF file can be quantized to {', '.join(QUANTIZE)}, not {quantize}.")
    with _bar("Checking the model", _size(model)) as advance:
        manifest = open_model(model, advance)
    with _bar("Converting", _size(model)) as advance:
        write_model_file(manifest, out, quantize, local_source(model), advance)
    say(f"{out} holds {manifest.name} in {quantize}, {out.stat().st_size >> 20} MiB.")


app.command()(board.status)


@app.command()
def trace(
    url: Url,
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The timeline to write.")],
    prompt: Annotated[str | None, typer.Option(help="Ask this first, and trace it; default: all lately.")] = None,
    tokens: Annotated[int, typer.Option(help="How many to generate after the prompt.", min=1)] = 32,
    key: Key = "",
) -> None:
    """Where the time of a request goes, as a timeline."""
    swarm = client_of(url, key)
    timeline = swarm.trace() if prompt is None else _traced(swarm, prompt, tokens)
    if not timeline["traceEvents"]:
        raise PotluckError("The swarm has not computed anything yet: ask it something, here with --prompt.")
    try:
        out.write_text(json.dumps(timeline), encoding="utf-8")
    except OSError as error:
        raise PotluckError(f"Cannot write {out}: {error.strerror or error}.") from error
    say(timeline["summary"])
    say(f"Open {out} at https://ui.perfetto.dev or chrome://tracing.")


def _traced(swarm: Client, prompt: str, tokens: int) -> dict[str, Any]:
    """The timeline of this request; what others ask meanwhile is in it as well."""
    model = swarm.status()["model"]
    before = swarm.trace(session=0)["count"]  # they count from 1: an empty timeline is enough here
    swarm.complete(model, prompt, tokens)
    return swarm.trace(after=before)


@app.command()
def chat(url: Url, key: Key = "") -> None:
    """Talk to the model."""
    swarm = client_of(url, key)
    model = swarm.status()["model"]
    say(f"Talking to {model}. An empty line or Ctrl-D ends.")
    with suppress(KeyboardInterrupt):
        _converse(swarm, model, [])


def _converse(swarm: Client, model: str, messages: list[dict[str, Any]]) -> None:
    """Read questions until the input ends. At a terminal, a request that fails is told and the talk goes on."""
    while question := _ask():
        messages.append({"role": "user", "content": question})
        try:
            messages.append({"role": "assistant", "content": _stream_answer(swarm, model, messages)})
        except PotluckError as error:
            if not sys.stdin.isatty():
                raise
            messages.pop()
            say(f"({error})")


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _stream_answer(swarm: Client, model: str, messages: list[dict[str, Any]]) -> str:
    """Print the answer as it comes; returns all of it."""
    answer = swarm.stream_chat(model, messages)
    with console.status("Waiting for the first word."):  # a long question takes its time to be read
        first = next(answer, "")
    parts = []
    for part in chain([first], answer):
        parts.append(part)
        console.file.write(part)
        console.file.flush()
    say("")
    return "".join(parts)


@app.command()
def demo(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="Default: SmolLM2-135M-Instruct.")] = None,
    prompt: Annotated[str, typer.Option(help="The first question.")] = DEMO_PROMPT,
    nodes: Annotated[int, typer.Option(help="How many nodes to start.", min=1)] = 3,
) -> None:
    """A whole swarm on this machine answers a question, and then yours."""
    from potluck.local import LocalSwarm, demo_model
    from potluck.models.sources import open_model

    path = model or demo_model()
    say(f"Potluck {__version__}: {path.name} on {nodes} nodes of this machine.")
    with _bar("Checking the model", _size(path)) as advance:
        layers = open_model(path, advance).layers
    if nodes > layers:
        raise SpanError(f"The model has {layers} layers: at most as many nodes can share them.")
    spans = even_spans(layers, nodes)
    local = LocalSwarm(path, spans, serve=["--local"], on_line=lambda line: say(f"  {line}"))
    try:
        with local:
            swarm, info = Client(local.url), local.wait_covered()
            say(f"\n> {prompt}")
            messages = [{"role": "user", "content": prompt}]
            messages.append({"role": "assistant", "content": _stream_answer(swarm, info["model"], messages)})
            if sys.stdin.isatty() and sys.stdout.isatty():
                say("\nYour turn. An empty line or Ctrl-D ends.")
                _converse(swarm, info["model"], messages)
    finally:
        say("The swarm is stopped.")


app.command()(owner.account)


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, where there is a terminal."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total or None)
        yield lambda nbytes: progress.advance(task, nbytes)


def _run(
    main: Callable[[], Coroutine[Any, Any, None]],
    on_signal: Callable[[], object] | None = None,
    others: Mapping[signal.Signals, Callable[[], object]] = MappingProxyType({}),
) -> None:
    """Until it ends, or Ctrl-C or SIGTERM cancel it, or whatever `on_signal` makes of them. others: more signals.

    The loop's own handlers, because Python's would raise a second Ctrl-C wherever the program just is.
    """

    async def cancellable() -> None:
        task = asyncio.current_task()
        assert task is not None
        with suppress(NotImplementedError):  # Windows
            end = on_signal or task.cancel
            for sign, act in {signal.SIGINT: end, signal.SIGTERM: end, **others}.items():
                asyncio.get_running_loop().add_signal_handler(sign, act)
        await main()

    with suppress(KeyboardInterrupt, asyncio.CancelledError), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(cancellable())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: it halves what a frame costs."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _log_to_console() -> None:
    """Potluck's own log lines as sentences; of others only warnings."""
    handler = _ConsoleHandler()
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    logging.getLogger("potluck").setLevel(logging.INFO)


class _ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))
