"""Makes the pictures in docs/screenshots, of a swarm on this machine in Debian's Chromium."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from potluck.client import Client
from potluck.local import LocalSwarm, demo_model
from potluck.types import even_spans

FOLDER = Path(__file__).parent.parent / "docs" / "screenshots"
QUESTION = "What is a potluck dinner? Answer in two sentences."
MINUTE_S = 60.0


@contextmanager
def company(url: str) -> Iterator[None]:
    """Two others who ask now and then. The block begins once the curves show a minute of them."""
    over = threading.Event()
    others = [threading.Thread(target=ask_now_and_then, args=(Client(url), seed, over)) for seed in range(2)]
    for other in others:
        other.start()
    try:
        time.sleep(MINUTE_S)
        yield
    finally:
        over.set()
        for other in others:
            other.join()


def ask_now_and_then(swarm: Client, seed: int, over: threading.Event) -> None:
    chance = random.Random(seed)
    while not over.wait(chance.uniform(0, 4)):
        swarm.complete(swarm.model, "A potluck is", chance.randint(20, 150))


@contextmanager
def page_of(browser: Browser, url: str, scheme: str, width: int) -> Iterator[Page]:
    """A fresh page of this width in pixels, in `light` or `dark`."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 720})  # type: ignore[arg-type]
    page.goto(url)
    page.locator("tr.node").first.wait_for()
    yield page
    page.close()


def draw(browser: Browser, url: str, scheme: str, width: int) -> None:
    with page_of(browser, url, scheme, width) as page:
        page.get_by_role("link", name="Chat").click()
        page.get_by_text("Settings").click()
        page.get_by_label("Temperature").fill("0")  # the same answer in every picture
        page.get_by_text("Settings").click()
        page.get_by_label("Your message").fill(QUESTION)
        page.get_by_role("button", name="Send").click()
        page.get_by_text("Served by").wait_for(timeout=60_000)
        page.screenshot(path=FOLDER / f"chat-{scheme}-{width}.png")
        page.get_by_role("link", name="Table").click()
        page.locator("tr.node").nth(1).click()
        page.screenshot(path=FOLDER / f"table-{scheme}-{width}.png")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with LocalSwarm(demo_model(), [], serve=["--local"], join=["--threads", "1"]) as swarm, sync_playwright() as player:
        for name, span in zip(("anna", "ben", "cleo"), even_spans(30, 3), strict=True):
            swarm.add_node(str(span), "--name", name)
        swarm.wait_covered()
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with company(swarm.url):
            for scheme, width in (("light", 1280), ("dark", 1280), ("dark", 320)):
                draw(browser, swarm.url, scheme, width)
        browser.close()


if __name__ == "__main__":
    main()
