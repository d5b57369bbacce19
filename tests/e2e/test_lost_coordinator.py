"""A coordinator is lost in the middle of answers: another one of its fleet goes on, and not a byte of them changes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from playwright.sync_api import Page, expect

from kit.browser import CHROMIUM, ask, set_answers
from kit.local_fleet import LocalFleet, Member
from kit.proxy import Proxy
from kit.waiting import eventually
from potluck.client import Client
from potluck.local import Process
from potluck.types import even_spans

TOKENS = 1500
QUESTION = [{"role": "user", "content": "Who brings what?"}]
OPTIONS: dict[str, Any] = {"max_tokens": TOKENS, "ignore_eos": True, "seed": 7}
"""An answer of some seconds, which is the same every time."""

Pair = tuple[Member, Member]


@pytest.fixture
def pair(fleet: LocalFleet, tiny: Path) -> Pair:
    """Two coordinators with nodes of their own, which anyone may ask."""
    one, two = fleet.add_all(tiny, 2, options=("--open",))
    for member, names in ((one, ("anna", "ben")), (two, ("cleo", "dora"))):
        for name, span in zip(names, even_spans(6, 2), strict=True):
            fleet.add_node(member, name, str(span))
    eventually(lambda: one.covered() and two.covered())
    fleet.wait_known()
    return one, two


def stream(url: str, usages: list[dict[str, Any]]) -> Iterator[str]:
    return Client(url).stream_chat("tiny", QUESTION, None, usages.append, **OPTIONS)


@pytest.mark.parametrize("end", [lambda process: process.popen.kill(), Process.interrupt], ids=["killed", "stopped"])
def test_our_client_goes_on_by_itself(pair: Pair, end: Callable[[Process], None]) -> None:
    one, two = pair
    undisturbed, usages = list[dict[str, Any]](), list[dict[str, Any]]()
    whole = "".join(stream(two.url, undisturbed))
    answer = stream(one.url, usages)
    begun = "".join(next(answer) for _ in range(20))
    end(one.process)
    assert begun + "".join(answer) == whole
    [usage], [before] = usages, undisturbed
    assert usage["completion_tokens"] == before["completion_tokens"] == TOKENS
    assert usage["prompt_tokens"] == before["prompt_tokens"]


def test_other_clients_can_go_on_with_the_id_of_the_last_event(
    pair: Pair, client_of: Callable[[Member], openai.OpenAI]
) -> None:
    one, two = pair
    asked: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "max_tokens": TOKENS, "seed": 7, "stream": True}
    asked["extra_body"] = {"ignore_eos": True}
    unbroken = client_of(two).chat.completions.create(**asked)
    whole = "".join(chunk.choices[0].delta.content or "" for chunk in unbroken)
    text, last = until_it_breaks(client_of(one).chat.completions.with_streaming_response.create(**asked), one.process)
    assert 0 < len(text) < len(whole)
    rest = client_of(two).chat.completions.create(**asked, extra_headers={"Last-Event-ID": last})
    assert text + "".join(chunk.choices[0].delta.content or "" for chunk in rest) == whole


def until_it_breaks(answer: Any, coordinator: Process) -> tuple[str, str]:
    """What comes of an answer whose coordinator is killed soon, and the id of the last event."""
    text, last = "", ""
    with answer as reply, suppress(httpx2.HTTPError):
        for number, event in enumerate(_events(reply.iter_lines())):
            first, _, data = event.partition("\ndata: ")
            [choice] = json.loads(data)["choices"]
            text, last = text + choice["delta"].get("content", ""), first.removeprefix("id: ")
            if number == 20:
                coordinator.popen.kill()
    assert coordinator.wait() == -signal.SIGKILL
    return text, last


def _events(lines: Iterable[str]) -> Iterator[str]:
    """The events that come whole."""
    event: list[str] = []
    for line in lines:
        if line:
            event.append(line)
        else:
            yield "\n".join(event)
            event = []


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_the_chat_page_goes_on_by_itself(pair: Pair, visit) -> None:
    one, two = pair

    def begun(url: str) -> Page:
        page = visit(url)
        set_answers(page, TOKENS)
        ask(page, "Who brings what?")
        return page

    def text_of(page: Page) -> str:
        expect(page.locator("article.assistant .note")).to_contain_text("tokens")
        return page.locator("article.assistant > .text").inner_text()

    def wait_for(page: Page, length: int) -> None:
        expect(page.locator("article.assistant > .text")).to_have_text(re.compile(f".{{{length}}}", re.S))

    whole = text_of(begun(two.url))
    with Proxy(one.url).running() as proxy:
        page = begun(proxy.url)
        wait_for(page, 20)
        proxy.cut()  # the same coordinator goes on
        wait_for(page, len(whole) // 4)
        proxy.port = int(two.url.rpartition(":")[2])
        one.process.popen.kill()
        assert text_of(page) == whole
        expect(page.locator("#trouble")).to_be_empty()
