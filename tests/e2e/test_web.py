"""The pages in a real browser, before real swarms."""

from __future__ import annotations

import json
import re
import signal
import time
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Route, expect

from kit.browser import CHROMIUM, HOSTILE, ask, set_answers, tell_status
from kit.processes import LOCAL, ONE_THREAD
from kit.proxy import Proxy
from kit.waiting import eventually
from potluck.local import HANG_S, LocalSwarm, Process
from potluck.types import Span, even_spans

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


def test_the_table_shows_who_serves_what(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    page = visit(tiny_swarm.url)
    expect(page.locator("tr.node")).to_have_count(3)
    expect(page.locator("tr.node .label")).to_have_text(["0-1", "2-3", "4-5"])
    expect(page.locator("tr.node .state")).to_have_text(["ready"] * 3)
    expect(page.get_by_role("img", name="All 6 layers are served.")).to_be_visible()
    expect(page.locator(".limit")).to_have_text(re.compile(r"Layers \d-\d on \S+ take \d+ % of a token's time"))
    assert complaints == []


def test_a_node_tells_about_itself_by_keyboard(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    name = page.locator("tr.node .name").first
    name.focus()
    page.keyboard.press("Enter")
    expect(name).to_have_attribute("aria-expanded", "true")
    facts = page.locator("tr.details:visible")
    expect(facts).to_contain_text("Round trip")
    for word in ("Machine", "Memory offered", "Rows computed", "Credits", "Last audit"):
        expect(facts.get_by_text(word, exact=True)).to_be_visible()
    expect(facts).to_contain_text("llama.cpp, ")
    expect(facts).to_contain_text("none since it joined")
    page.keyboard.press("Enter")
    expect(page.locator("tr.details:visible")).to_have_count(0)


def told_first(swarm: LocalSwarm) -> dict[str, Any]:
    """What the coordinator tells whoever begins to listen."""
    with httpx.stream("GET", f"{swarm.url}/status/events", timeout=HANG_S) as events:
        event: dict[str, Any] = json.loads(next(events.iter_lines()).removeprefix("data: "))
        return event


def test_the_curves_begin_before_the_page_was_opened(visit, tiny_swarm: LocalSwarm) -> None:
    eventually(lambda: len(told_first(tiny_swarm)["history"]) > 2)
    page = visit(tiny_swarm.url)
    page.clock.install()
    page.clock.pause_at(time.time() + 1)  # so that it draws nothing that it has seen itself but one moment
    page.reload()
    expect(page.locator(".tile path").nth(1)).to_have_attribute("d", re.compile("L.*L"))


def test_a_chat_is_streamed_signed_and_kept(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    page = visit(tiny_swarm.url)
    set_answers(page, 20)
    ask(page, "the potluck")
    note = page.locator("article.assistant .note")
    expect(note).to_contain_text(re.compile(r"Served by \S+ 0-1 → \S+ 2-3 → \S+ 4-5 · first token .+ s · .+ tokens/s"))
    answer = page.locator("article.assistant .text").inner_text()
    assert answer
    page.reload()
    expect(page.locator("article.assistant .text")).to_have_text(answer, use_inner_text=True)
    expect(page.get_by_label("Longest answer")).to_have_value("20")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("article")).to_have_count(0)
    assert complaints == []


def test_an_answer_can_be_stopped(visit, smol: LocalSwarm) -> None:
    page = visit(smol.url)
    page.route("**/v1/chat/completions", lambda route: route.continue_(post_data=endless(route)))
    ask(page, "the potluck")
    expect(page.locator("article.assistant .text")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("article.assistant .note")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    smol.wait_until(lambda status: status["streams"] == 0)
    assert len(page.locator("article.assistant .text").inner_text()) > 0


def test_the_settings_go_with_every_question_and_conversations_are_apart(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    set_answers(page, 4)
    page.get_by_text("Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Seed").fill("7")
    sent: list[dict[str, object]] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    for text in ("the potluck", "the dinner"):
        ask(page, text)
        expect(page.locator("article.assistant .note")).to_contain_text("Served by")
        page.get_by_role("button", name="New conversation").click()
    assert [(body["temperature"], body["max_tokens"], body["seed"]) for body in sent] == [(0, 4, 7)] * 2
    system = {"role": "system", "content": "Be brief."}
    assert [body["messages"] for body in sent] == [
        [system, {"role": "user", "content": text}] for text in ("the potluck", "the dinner")
    ]
    page.get_by_role("button", name="the potluck", exact=True).click()
    expect(page.locator("article.user .text")).to_have_text("the potluck")


def test_a_long_message_is_seen_being_read(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    set_answers(page, 8)
    # The bar is there for a moment only: note what it says each time.
    page.evaluate(
        """() => {
          window.said = [];
          new MutationObserver(() => {
            const label = document.querySelector(".reading:not([hidden])");
            if (label) window.said.push([label.innerText, label.querySelector("progress").value]);
          }).observe(document.getElementById("messages"), { subtree: true, childList: true, attributes: true });
        }"""
    )
    ask(page, "the potluck " * 120)
    expect(page.locator("article.assistant .note")).to_contain_text("tokens/s")
    said = page.evaluate("window.said")
    done = [value for _, value in said]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert all(f"Reading: {value:,} of " in words for words, value in said)
    expect(page.get_by_role("progressbar")).to_have_count(0)


def endless(route: Route) -> str:
    """The page's own request, for an answer that the model itself may not end, the same every time."""
    asked: dict[str, Any] = route.request.post_data_json or {}
    return json.dumps({**asked, "ignore_eos": True, "temperature": 0})


def test_a_hostile_answer_stays_text(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    page = visit(tiny_swarm.url)
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": HOSTILE}, "finish_reason": "stop"}]})
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=f"data: {event}\n\ndata: [DONE]\n\n"),
    )
    ask(page, "the potluck")
    answer = page.locator("article.assistant .text")
    expect(answer.locator("strong")).to_have_text("bold")
    expect(answer.locator("li li")).to_have_text("two")
    expect(answer.locator("th")).to_have_text(["dish", "who"])
    expect(answer.locator("td")).to_have_text(["<b>soup</b>", "a | b", "bread"])
    expect(answer.locator("pre")).to_contain_text('<iframe srcdoc="<script>')
    expect(answer).to_contain_text("<img src=x onerror=")
    assert answer.locator("img, script, iframe, b").count() == 0
    assert [link.get_attribute("href") for link in answer.locator("a").all()] == ["https://evil.example/pixel.png"]
    assert page.evaluate("window.pwned") is None
    assert complaints == []


LONG = r"""async () => {
  const { markdown } = await import("/web/markdown.js");
  const texts = {
    "# a # ## ": "h3: a #", "# #": "h3: ", "###### a# #b": "h6: a# #b",
    ["# " + "#".repeat(200000) + "x"]: "h3", ["# " + " ".repeat(200000) + "x\u2028y"]: "h3",
    ["# " + "# ".repeat(100000) + "x"]: "h3",
    ["- " + " ".repeat(200000) + "x\u2028y"]: "ul",
    ["`a` ".repeat(150000)]: "p", ["**" + "`a`".repeat(600) + "** " + "*a* ".repeat(100000)]: "p",
    ["|".repeat(150000) + "\n|-|-|\n" + "|".repeat(150000)]: "div", ["|a|b|\n|-|-|\n" + "|a|\n".repeat(150000)]: "div",
  };
  const wrong = [];
  for (const [text, right] of Object.entries(texts)) {
    const made = markdown(text).firstElementChild, name = made.tagName.toLowerCase();
    const said = right.includes(":") ? `${name}: ${made.textContent}` : name;
    if (said !== right) wrong.push([text.slice(0, 20), said, right]);
  }
  return wrong;
}"""


def test_no_text_is_too_long_to_be_shown(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    """Not even one made to take long, or to have more parts than a call may have arguments."""
    page = visit(tiny_swarm.url)
    assert page.evaluate(LONG) == []
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_is_wide_enough(visit, tiny_swarm: LocalSwarm, scheme: str) -> None:
    page = visit(tiny_swarm.url, viewport={"width": 320, "height": 640}, color_scheme=scheme)
    page.locator("tr.node").first.click()
    expect(page.locator("tr.details:visible")).to_have_count(1)
    for view in ("Table", "Chat"):
        page.get_by_role("link", name=view).click()
        assert page.evaluate("document.documentElement.scrollWidth") == 320


@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(visit, tiny_swarm: LocalSwarm, scheme: str, width: int) -> None:
    """Names, roles, contrasts and the rest that axe knows of, in every state of the page."""
    page = visit(tiny_swarm.url, viewport={"width": width, "height": 800}, color_scheme=scheme)

    def check() -> None:
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()

    page.locator("tr.node .name").first.click()
    check()
    set_answers(page, 8)
    ask(page, "the potluck")
    expect(page.locator("article.assistant .note")).to_contain_text("tokens/s")
    page.get_by_text("Settings").click()
    check()
    for button, close in (("Join with this computer", "Close"), ("API key", "Cancel")):
        page.get_by_role("button", name=button).click()
        check()
        page.get_by_role("button", name=close).click()


STATES: list[tuple[dict[str, Any], str]] = [
    ({"state": "loading", "progress": 0.5}, "loading 50 %"),
    ({"state": "ready"}, "ready"),
    *(({"state": "ready", "sessions": count}, f"busy, {count} stream{'s' * (count > 1)}") for count in (1, 2, 3, 4)),
    ({"state": "leaving"}, "leaving"),
    ({"state": "moving"}, "moving"),
    ({"state": "paused", "reason": "its owner uses the machine"}, "paused"),
    ({"state": "stalled", "reason": "it does not answer"}, "stalled"),
    ({"state": "quarantined", "reason": "it was wrong twice"}, "quarantined"),
]


def test_the_share_of_right_guesses_is_told_where_there_were_any(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    line = page.locator(".guesses")
    tell_status(page, {**tiny_swarm.status(), "guesses": {"fed": 0, "right": {}, "told": ""}})
    page.reload()
    expect(page.locator("tr.node")).to_have_count(3)
    expect(line).to_be_hidden()
    guesses = {"fed": 412, "right": {"model": 293}, "told": "71 % of 412 guesses were right."}
    tell_status(page, {**tiny_swarm.status(), "guesses": guesses})
    page.reload()
    expect(line).to_have_text("71 % of 412 guesses were right.")
    expect(line).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_can_be_read(visit, tiny_swarm: LocalSwarm, scheme: str) -> None:
    told = tiny_swarm.status()
    nodes = [{**told["nodes"][0], **changes, "name": f"node {number}"} for number, (changes, _) in enumerate(STATES)]
    guesses = {"fed": 412, "right": {}, "told": "71 % of 412 guesses were right."}
    event = {
        **told,
        "nodes": nodes,
        "served": [2, 2, 3, 0, 1, 4],
        "missing": ["3"],
        "covered": False,
        "guesses": guesses,
    }
    page = visit(tiny_swarm.url, color_scheme=scheme)
    tell_status(page, event)
    page.reload()
    expect(page.locator("tr.node .state")).to_have_text([words for _, words in STATES])
    for name in page.locator("tr.node .name").all():
        name.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_all_can_be_done_by_keyboard_and_the_focus_is_never_lost(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    set_answers(page, 8)
    press, focused = page.keyboard.press, page.locator(":focus")
    for button in ("Join with this computer", "API key"):
        page.get_by_role("button", name=button).focus()
        press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(focused).to_have_text(button)
    page.get_by_label("Your message").focus()
    page.keyboard.type("the potluck")
    press("Tab")
    expect(focused).to_have_text("Send")
    press("Enter")
    note = page.locator("article.assistant .note")
    expect(note).to_contain_text("tokens/s")
    expect(focused).to_have_id("prompt")  # from Stop, which is gone
    page.get_by_role("button", name="New conversation").focus()
    press("Enter")
    page.get_by_role("button", name="the potluck", exact=True).focus()
    press("Enter")
    expect(focused).to_have_text("the potluck")
    page.get_by_role("button", name="Delete the potluck").focus()
    press("Enter")
    expect(page.locator("article")).to_have_count(0)
    expect(focused).to_have_count(1)


def test_nothing_moves_for_those_who_do_not_want_it(visit, tiny_swarm: LocalSwarm) -> None:
    for motion, moving in (("no-preference", True), ("reduce", False)):
        page = visit(tiny_swarm.url, reduced_motion=motion)
        bar = page.locator("tr.node .bar").first
        assert bar.evaluate("bar => getComputedStyle(bar).transitionProperty !== 'none'") is moving


def test_a_node_that_dies_leaves_a_gap_to_be_seen(visit, tiny: Path) -> None:
    with LocalSwarm(tiny, even_spans(6, 3), serve=LOCAL, join=ONE_THREAD) as swarm:
        swarm.wait_covered()
        page = visit(swarm.url)
        expect(page.locator("tr.node")).to_have_count(3)
        swarm.nodes[1].popen.kill()
        expect(page.locator(".coverage .missing")).to_have_text("2-3 missing")
        expect(page.get_by_role("img", name="No node serves layers 2-3 of 6.")).to_be_visible()
        expect(page.locator("tr.node")).to_have_count(2)
        swarm.add_node(str(Span(2, 3)))
        expect(page.get_by_role("img", name="All 6 layers are served.")).to_be_visible()


def test_an_answer_that_waits_for_lost_layers_says_so(visit, tiny: Path) -> None:
    with (
        LocalSwarm(tiny, [Span(0, 1), Span(4, 5)], serve=LOCAL, join=ONE_THREAD) as swarm,
        Proxy(swarm.url).running() as line,
    ):
        node = swarm.add_node("2-3", url=line.url).popen
        swarm.wait_covered()
        page = visit(swarm.url)
        set_answers(page, 500)
        with line.crawling():
            ask(page, "potluck")
            expect(page.locator("article.assistant .text")).not_to_be_empty()
            node.send_signal(signal.SIGSTOP)
            note = page.locator("article.assistant .note")
            expect(note).to_have_text("No node serves layers 2-3 now. The answer waits for one…")
            node.send_signal(signal.SIGCONT)
        expect(note).to_contain_text("Served by")


def test_a_private_swarm_asks_for_a_key_and_gives_its_owner_the_command(visit, tiny: Path, tmp_path: Path) -> None:
    with Process(["serve", str(tiny), "--port", "0", "--host", "127.0.0.1"], POTLUCK_DATA=str(tmp_path)) as coordinator:
        [url] = re.findall(r"http://\S+", coordinator.wait_for("Serving "))
        secret = Path(coordinator.wait_for("Your own is in ")[15:-1]).read_text().strip()
        page = visit(url)
        expect(page.get_by_role("dialog")).to_contain_text("Your API key")
        expect(page.get_by_role("button", name="Join with this computer")).to_be_hidden()
        page.get_by_label("API key", exact=True).fill("pk-wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_role("status")).to_contain_text("wrong or was revoked")
        page.get_by_label("API key", exact=True).fill(secret)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator(".empty")).to_be_visible()
        page.get_by_role("button", name="Join with this computer").click()
        expect(page.locator("#command")).to_have_text(re.compile(rf'potluck join "{url}/#[\w.-]+"'))


def test_on_ones_own_machine_pages_may_be_opened_as_often_as_one_likes(tiny_swarm: LocalSwarm) -> None:
    with httpx.Client(base_url=tiny_swarm.url, timeout=HANG_S) as browser:
        begun = time.monotonic()
        asked = count()
        while next(asked) < 450 + 20 * (time.monotonic() - begun):  # a stranger may send 400 at once and 20 a second
            assert browser.get("/web/dom.js").status_code == 200


def test_pages_are_cached_by_their_tag_and_let_nothing_else_in(tiny_swarm: LocalSwarm) -> None:
    reply = httpx.get(tiny_swarm.url, timeout=HANG_S)
    assert reply.headers["content-type"].startswith("text/html")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = httpx.get(tiny_swarm.url, headers={"If-None-Match": reply.headers["etag"]}, timeout=HANG_S)
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(f"{tiny_swarm.url}/web/..%2Fweb.py", timeout=HANG_S).status_code == 404
