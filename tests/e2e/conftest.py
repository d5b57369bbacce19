"""Swarms that several tests share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from kit import nats_servers, postgres
from kit.browser import CHROMIUM
from kit.local_fleet import LocalFleet
from kit.owned_swarm import Swarm
from kit.processes import LOCAL, ONE_THREAD
from kit.tiny_gguf import EXACT, write_tiny_gguf
from kit.tool_model import write_tool_model
from kit.unsplit import Unsplit
from potluck.local import HANG_S, LocalSwarm, Process
from potluck.types import even_spans


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """What a script starts in the background ignores Ctrl-C, and so would all that such a test run starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def smol(smollm2: Path) -> Iterator[LocalSwarm]:
    """SmolLM2 on three nodes."""
    with LocalSwarm(smollm2, even_spans(30, 3), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


@pytest.fixture(scope="session")
def tool_swarm(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """SmolLM2 on three nodes, with a template that teaches it tools."""
    model = write_tool_model(smollm2, tmp_path_factory.mktemp("tools"))
    with LocalSwarm(model, even_spans(30, 3), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


@pytest.fixture(scope="session")
def unsplit(smollm2: Path) -> Iterator[Unsplit]:
    """SmolLM2 in one engine here."""
    model = Unsplit(smollm2)
    yield model
    model.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of 6 layers, about 1 ms a token."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_tiny_gguf(path, tokenizer="bpe", context=4096, dtype=EXACT)


@pytest.fixture(scope="session")
def tiny_unsplit(tiny: Path) -> Iterator[Unsplit]:
    model = Unsplit(tiny)
    yield model
    model.close()


@pytest.fixture(scope="session")
def tiny_swarm(tiny: Path) -> Iterator[LocalSwarm]:
    """The tiny model on three nodes."""
    with LocalSwarm(tiny, even_spans(6, 3), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        yield swarm


@pytest.fixture
def fleet(postgres_server: postgres.Server, tmp_path: Path) -> Iterator[LocalFleet]:
    """A fleet of the test's own, without coordinators."""
    if nats_servers.program() is None:
        pytest.skip("There is no nats-server here.")
    with nats_servers.nats_server() as server, LocalFleet(tmp_path, server, postgres_server) as made:
        yield made


@pytest.fixture(scope="session")
def client_of() -> Iterator[Callable[[LocalSwarm], openai.OpenAI]]:
    """The official client, as a stranger would set it up."""
    clients: list[openai.OpenAI] = []

    def connect(swarm: LocalSwarm) -> openai.OpenAI:
        clients.append(openai.OpenAI(base_url=f"{swarm.url}/v1", api_key="none", max_retries=0, timeout=HANG_S))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def client(smol: LocalSwarm, client_of: Callable[[LocalSwarm], openai.OpenAI]) -> openai.OpenAI:
    """Of SmolLM2."""
    return client_of(smol)


@pytest.fixture(scope="session")
def name(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


@pytest.fixture
def start(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Swarm]]:
    """Starts a coordinator; the test's own commands have its data folder."""
    monkeypatch.setenv("POTLUCK_DATA", str(tmp_path))
    monkeypatch.delenv("POTLUCK_KEY", raising=False)
    started: list[Process] = []

    def serve(*options: str, port: int = 0) -> Swarm:
        started.append(Process(["serve", str(tiny), "--port", str(port), *options]))
        return Swarm(started[-1], tmp_path)

    yield serve
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=1000 * HANG_S)
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def complaints() -> list[str]:
    """What the browser had against the page, its policy's refusals among it."""
    return []


@pytest.fixture
def visit(browser: Browser, complaints: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens a page of its own profile; only the coordinator may be asked for anything.

    before: prepares the page before it is loaded.
    """
    pages: list[Page] = []

    def opened(url: str, before: Callable[[Page], object] = lambda _: None, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        page = context.new_page()
        page.set_default_timeout(1000 * HANG_S)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
        before(page)
        page.goto(url)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.context.close()
