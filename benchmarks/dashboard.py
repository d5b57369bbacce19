"""The dashboard with many nodes: its first paint, and what updates cost the browser and the coordinator."""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import uvicorn
from playwright.sync_api import Page, sync_playwright
from starlette.applications import Starlette

from bench.record import Figure, Measure, below
from bench.report import Report, options_parser
from potluck.coordinator.audits.audits import no_audits
from potluck.coordinator.http.pages import Pages
from potluck.coordinator.http.routes import routes_of
from potluck.coordinator.swarm.events import BecameReady, Joined, Quarantined, Stalled
from potluck.coordinator.swarm.swarm import Swarm
from potluck.coordinator.swarm.tally import TokenKind
from potluck.coordinator.watching.history import History
from potluck.coordinator.watching.live import Live
from potluck.coordinator.watching.status import swarm_status
from potluck.planning.cost import Footprint
from potluck.types import Capacity, Span, Speed
from potluck.wire.messages import Hello, Ready

LAYERS = 80

TIME, SHARE, TELLING = Measure("result", "ms"), Measure("result", "%"), Measure("result", "ms/s")


class Crowd:
    """A swarm of simulated, busy nodes. spent_s: the processor time of all tellings. told: their number."""

    def __init__(self, nodes: int) -> None:
        self._chance = random.Random(1)
        self.swarm = Swarm("d" * 64, Footprint((300 << 20,) * LAYERS, 0, 0, cache=(8 << 20,) * LAYERS, row=64 << 10))
        self.spent_s, self.told = 0.0, 0
        self.history = History([lambda: (self.swarm.tally.tokens[TokenKind.GENERATED], 3, 3)])
        for number in range(nodes):
            self._join(f"n{number}", number)

    def _join(self, node: str, number: int) -> None:
        length = self._chance.randint(4, 12)
        first = min(LAYERS - length, number * length % LAYERS)
        span, key = Span(first, first + length - 1), number.to_bytes(32, "big")
        hello = Hello(f"node-{number:03}", "0.1.0", "", span, 64 << 30, 8, key=key)
        self.swarm.handle(Joined(node, hello))
        if number % 20 == 7:
            self.swarm.nodes[node].fraction = self._chance.random()
            return
        speed = Speed(length * self._chance.uniform(0.002, 0.01), 0.001)
        self.swarm.handle(BecameReady(node, Ready(Capacity(16, 65536, 576), speed, "ab12" * 8, "optimised")))
        if number % 25 == 3:
            self.swarm.handle(Stalled(node, "it does not answer"))
        if number % 50 == 9:
            self.swarm.handle(Quarantined(node, key, "it computed something else than its layers"))

    def tell(self) -> bytes:
        began = time.thread_time()
        self._work()
        self.history.note()
        status = swarm_status(self.swarm, "a-large-model", "d" * 64, 4096, no_audits(), 3)
        told = msgspec.json.encode(status)
        self.spent_s, self.told = self.spent_s + time.thread_time() - began, self.told + 1
        return told

    def _work(self) -> None:
        self.swarm.tally.tokens[TokenKind.GENERATED] += self._chance.randint(90, 110)
        for node in self.swarm.nodes.values():
            node.rows += self._chance.randint(0, 60)
            node.reserved = dict.fromkeys(range(self._chance.randint(0, 4)), 1)


@contextmanager
def served(crowd: Crowd) -> Iterator[str]:
    """The URL of pages that show the crowd."""
    live = Live([crowd.tell], crowd.history.beside)
    app = Starlette(routes=routes_of(Pages(), live))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def measure(page: Page, url: str, nodes: int, seconds: float, picture: str) -> dict[str, float]:
    """The ms until the first paint and until all rows are there, and the share of a core that updates take."""
    page.goto(url)
    page.locator("tr.node").nth(nodes - 1).wait_for(state="attached")
    table_ms = page.evaluate("performance.now()")
    paint_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    before, began = busy_s(tools), time.monotonic()
    time.sleep(seconds)
    share = (busy_s(tools) - before) / (time.monotonic() - began)
    if picture:
        page.screenshot(path=picture)
    return {"paint_ms": paint_ms, "table_ms": table_ms, "share": share}


def busy_s(tools: object) -> float:
    """The CPU time of the page's main thread, with scripts, styles, layout and painting."""
    metrics = tools.send("Performance.getMetrics")["metrics"]  # type: ignore[attr-defined]
    return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")


def figures_of(page: dict[str, float], tell_ms: float) -> list[Figure]:
    """tell_ms: the coordinator's processor time for one telling. There is one each second."""
    return [
        TIME.of("first paint", page["paint_ms"], below(1000)),
        TIME.of("until all rows are there", page["table_ms"]),
        SHARE.of("share of a core that updates take in the browser", 100 * page["share"], below(5)),
        TELLING.of("processor time of the coordinator", tell_ms),
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--picture", default="", help="where to put a PNG of the page")
    options = parser.parse_args()
    report = Report("dashboard", options)
    crowd = Crowd(options.nodes)
    with served(crowd) as url, sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = measure(browser.new_page(), url, options.nodes, options.seconds, options.picture)
        browser.close()
    tell_ms = 1000 * crowd.spent_s / crowd.told
    report.add({f"{options.nodes} nodes": figures_of(page, tell_ms)})
    report.finish(tell_ms=tell_ms, **page)


if __name__ == "__main__":
    main()
