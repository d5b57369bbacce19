"""The pages of a coordinator that serves several models, in a real browser."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from kit.browser import CHROMIUM, ask, serve_models, tell_status
from potluck.local import LocalSwarm

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

Status = dict[str, Any]


def history(tokens: int) -> list[dict[str, float]]:
    """Ten seconds with this number of tokens a second."""
    return [{"ago_s": 10 - at, "tokens": at * tokens, "streams": 1, "waiting": 0} for at in range(10)]


@pytest.fixture
def models(tiny_swarm: LocalSwarm) -> tuple[Status, Status]:
    """The status of a model that is covered, and that of one that lacks layers."""
    told = tiny_swarm.status()
    one = {**told, "model": "small", "tokens": 20, "history": history(2)}
    nodes = [{**node, "name": told["nodes"][0]["name"]} for node in told["nodes"][1:]]
    lost = {"served": [0, 0, 1, 1, 1, 1], "covered": False, "missing": ["0-1"], "limit": "Layers 0-1 are missing."}
    return one, {**told, **lost, "model": "l" * 90, "nodes": nodes, "tokens": 300, "history": history(30)}


@pytest.fixture
def opened(visit: Any, tiny_swarm: LocalSwarm, models: tuple[Status, Status]) -> Any:
    """Opens the page of a coordinator that serves both."""

    def prepare(page: Page) -> None:
        tell_status(page, *models)
        serve_models(page, *(status["model"] for status in models))

    return lambda **options: visit(tiny_swarm.url, before=prepare, **options)


def test_each_model_has_a_board_under_its_name(opened: Any, models: tuple[Status, Status], complaints: Any) -> None:
    page: Page = opened()
    one, other = (page.get_by_role("region", name=status["model"]) for status in models)
    expect(page.locator("#model")).to_have_text("2 models")
    expect(page.get_by_role("heading", level=2)).to_have_text(["small", "l" * 90])
    expect(one.locator(".about")).to_have_text("6 layers · context 4096")
    expect(one.locator("tr.node .label")).to_have_text(["0-1", "2-3", "4-5"])
    expect(other.locator("tr.node .label")).to_have_text(["2-3", "4-5"])
    expect(one.get_by_role("img", name="All 6 layers are served.")).to_be_visible()
    expect(other.get_by_role("img", name="No node serves layers 0-1 of 6.")).to_be_visible()
    expect(other.locator(".limit")).to_have_text("Layers 0-1 are missing.")
    assert complaints == []


def test_each_model_has_its_own_last_minutes(opened: Any) -> None:
    page: Page = opened()
    page.clock.install()
    page.clock.pause_at(time.time() + 1)  # so that the page adds one moment to what it is told
    page.reload()
    expect(page.locator(".tile:first-child strong")).to_have_text(["2", "30"])
    for place in (0, 4):
        expect(page.locator(".tile path").nth(place)).to_have_attribute("d", re.compile("L.*L"))


def test_nodes_of_any_model_tell_about_themselves_by_keyboard(opened: Any) -> None:
    """Also where several have the same name."""
    page: Page = opened()
    names = page.locator("tr.node .name")
    expect(names).to_have_count(5)
    names.nth(3).focus()
    page.keyboard.press("Enter")
    expect(names.nth(3)).to_have_attribute("aria-expanded", "true")
    facts = page.locator("tr.details:visible")
    expect(facts).to_have_count(1)
    expect(facts).to_contain_text("Layers2-3")
    expect(page.locator(f"#{names.nth(3).get_attribute('aria-controls')}")).to_be_visible()
    page.keyboard.press("Tab")
    expect(names.nth(4)).to_be_focused()


def test_boards_go_and_come_with_their_models(opened: Any, models: tuple[Status, Status]) -> None:
    page: Page = opened()
    expect(page.get_by_role("heading", level=2)).to_have_count(2)
    tell_status(page, models[1])
    expect(page.locator("#model")).to_have_text(f"{'l' * 90} · 6 layers · context 4096")
    expect(page.get_by_role("heading", level=2)).to_have_count(0)
    expect(page.locator("tr.node .label")).to_have_text(["2-3", "4-5"])
    tell_status(page, *models)
    expect(page.get_by_role("heading", level=2)).to_have_text(["small", "l" * 90])
    expect(page.locator("tr.node .label")).to_have_text(["0-1", "2-3", "4-5", "2-3", "4-5"])


@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(opened: Any, scheme: str, width: int) -> None:
    page: Page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name in page.locator("tr.node .name").all():
        name.click()
    expect(page.locator("tr.details:visible")).to_have_count(5)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(
    ("place", "told"),
    [(0, "Waiting for the nodes…"), (1, "No node serves layers 0-1 now. The answer waits for one…")],
)
def test_an_answer_waits_for_the_layers_of_its_own_model(
    opened: Any, models: tuple[Status, Status], place: int, told: str
) -> None:
    page: Page = opened()
    page.route("**/v1/chat/completions", lambda _: None)  # nothing comes
    page.get_by_role("link", name="Chat").click()
    page.get_by_label("Model").select_option(models[place]["model"])
    ask(page, "the potluck")
    expect(page.locator("article.assistant .note")).to_have_text(told)
