"""The chat page in a real browser: files that go with messages, and conversations that leave it and come back."""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from kit.browser import ANSWERS_BY_HAND, CHROMIUM, answer_with, ask, event
from potluck.local import LocalSwarm

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

MARKUP = '<img src=x onerror="window.pwned = 1">'
PLACE = "potluck.conversations"


def choose(page: Page, name: str, content: bytes) -> None:
    page.get_by_role("link", name="Chat").click()
    page.locator("#choose").set_input_files({"name": name, "mimeType": "", "buffer": content})


def stored(page: Page) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = page.evaluate("place => JSON.parse(localStorage.getItem(place))", PLACE)
    return kept


def store(page: Page, conversations: object) -> None:
    """Puts these into the browser in place of its own, and opens the page again."""
    page.evaluate("([place, text]) => localStorage.setItem(place, text)", [PLACE, json.dumps(conversations)])
    page.reload()
    page.get_by_role("link", name="Chat").click()


def bring(page: Page, content: str) -> None:
    page.locator("#import-file").set_input_files({"name": "a.json", "mimeType": "", "buffer": content.encode()})


def export(page: Page, button: str) -> str:
    page.locator("#transfer").evaluate("part => { part.open = true; }")
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text("utf-8")


def test_files_go_with_the_message(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    page = visit(tiny_swarm.url)
    choose(page, f"a `{MARKUP}.md", b"\xef\xbb\xbfSee:\n````\ncode\n````\n")
    choose(page, "wide.txt", "Grüße".encode("utf-16"))
    choose(page, "unwanted.txt", b"no")
    expect(page.locator("#files li span")).to_have_text([f"a `{MARKUP}.md", "wide.txt", "unwanted.txt"])
    page.get_by_role("button", name="Remove unwanted.txt").click()
    asked = answer_with(page, event({"content": "first"}, "stop"))
    ask(page, "What is this?")
    expect(page.locator("article.assistant .note")).not_to_be_empty()
    expect(page.locator("article.user summary")).to_have_text([f"a `{MARKUP}.md", "wide.txt"])
    expect(page.locator("#files li")).to_have_count(0)
    told = f"a {MARKUP}.md:\n`````\nSee:\n````\ncode\n````\n`````\n\nwide.txt:\n```\nGrüße\n```\n\nWhat is this?"
    assert asked[0]["messages"] == [{"role": "user", "content": told}]
    page.reload()
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("button", name="Remove wide.txt").click()
    ask(page, "")
    expect(page.get_by_role("group", name="Versions")).to_contain_text("2/2")
    assert asked[1]["messages"] == [{"role": "user", "content": told.partition("\n\nwide.txt")[0]}]
    assert page.evaluate("window.pwned") is None
    assert complaints == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (MARKUP, b"\x89PNG\r\n\x1a\n", "is not a text in UTF-8 or UTF-16, so the model cannot read it."),
        ("a.bin", b"a\0b", "is not a text in UTF-8 or UTF-16, so the model cannot read it."),
        ("a.txt", "Grüße".encode("latin-1"), "is not a text in UTF-8 or UTF-16, so the model cannot read it."),
        ("a.txt", bytes(1 << 20), "is too large: the files of a message may have 1,024 KiB together."),
    ],
)
def test_what_is_no_short_text_is_refused(
    visit, tiny_swarm: LocalSwarm, name: str, content: bytes, sentence: str
) -> None:
    page = visit(tiny_swarm.url)
    choose(page, "good.txt", b"good")
    expect(page.locator("#files li span")).to_have_text(["good.txt"])
    choose(page, name, content)
    expect(page.locator("#trouble")).to_have_text(f"“{name}” {sentence}")
    expect(page.locator("#files li span")).to_have_text(["good.txt"])
    assert page.evaluate("window.pwned") is None


def test_files_can_be_dropped_anywhere_and_are_never_opened(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    drop = """([kind, target]) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["hello"], "a.txt"));
      const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
      document.querySelector(target).dispatchEvent(event);
      return event.defaultPrevented;
    }"""
    assert page.evaluate(drop, ["drop", "header"])
    page.get_by_role("link", name="Chat").click()
    expect(page.locator("#chat")).to_be_visible()
    expect(page.locator("#files li")).to_have_count(0)
    assert page.evaluate(drop, ["dragover", "#messages"])
    expect(page.locator("#ask.over")).to_have_count(1)
    assert page.evaluate(drop, ["drop", "#messages"])
    expect(page.locator("#files li span")).to_have_text(["a.txt"])
    expect(page.locator("#ask.over")).to_have_count(0)


def test_conversations_of_before_there_were_branches_still_open(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    old_answer = {"role": "assistant", "content": "first", "served": ["anna 0-5"], "tokens": 9, "first_s": 0.25}
    old = {
        "id": "1-2",
        "settings": {"system": "Be brief.", "max_tokens": 9},
        "messages": [
            {"role": "user", "content": "one"},
            {**old_answer, "stream_s": 2, "stopped": True},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": "second", "served": [], "stopped": False},
        ],
    }
    strange = {"id": 7, "from": "the future"}
    store(page, [old, strange])
    expect(page.locator("article > .text")).to_have_text(["one", "first", "two", "second"])
    note = "Served by anna 0-5 · first token 0.25 s · 4 tokens/s · 9 tokens · stopped"
    expect(page.locator("article.assistant .note").first).to_have_text(note)
    asked = answer_with(page, event({"content": "third"}, "stop"))
    ask(page, "three")
    expect(page.locator("article.assistant .note").nth(2)).to_contain_text("first token")
    contents = [message["content"] for message in asked[0]["messages"]]
    assert contents == ["Be brief.", "one", "first", "two", "second", "three"]
    assert asked[0]["max_tokens"] == 9
    kept, still = stored(page)
    assert [message["parent"] for message in kept["messages"]] == [-1, 0, 1, 2, 3, 4]
    assert still == strange


def test_conversations_leave_and_come_back_whole(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    page = visit(tiny_swarm.url)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "nodes": ["anna 0-5"]}
    call = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    answer_with(
        page,
        event({"reasoning_content": "Hm."}),
        event({"content": MARKUP, "tool_calls": [call]}, "tool_calls"),
        {"choices": [], "usage": usage},
    )
    choose(page, "a.txt", b"hello")
    expect(page.locator("#files li")).to_have_count(1)
    ask(page, "one")
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_role("button", name="Version 1 of 2").click()
    page.get_by_role("button", name="New conversation").click()
    ask(page, "two")
    expect(page.locator("article.assistant .note")).to_contain_text("Served by")
    one, both = export(page, "Export this conversation"), export(page, "Export all")
    before = stored(page)
    bring(page, both)
    expect(page.locator("#told")).to_have_text("Imported: 0 conversations. Already here: 2 conversations.")
    for name in ("one", "two"):
        page.get_by_role("button", name=f"Delete {name}", exact=True).click()
    assert stored(page) == []
    bring(page, one)
    expect(page.locator("#told")).to_have_text("Imported: 1 conversation.")
    bring(page, both)
    expect(page.locator("#told")).to_have_text("Imported: 1 conversation. Already here: 1 conversation.")
    after = [talk for talk in stored(page) if talk["messages"]]
    assert sorted(after, key=itemgetter("id")) == sorted(before, key=itemgetter("id"))
    page.get_by_role("button", name="one", exact=True).click()
    expect(page.get_by_role("group", name="Versions")).to_contain_text("1/2")
    expect(page.locator("article.assistant .text")).to_have_text(MARKUP)
    assert page.evaluate("window.pwned") is None
    assert complaints == []


def test_an_import_replaces_nothing(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    talk = {"id": "1-2", "settings": {}, "messages": [{"role": "user", "content": "mine"}]}
    store(page, [talk])
    theirs = {**talk, "messages": [{"role": "user", "content": MARKUP}]}
    bring(page, json.dumps({"format": "potluck-conversations", "version": 1, "conversations": [theirs, theirs]}))
    expect(page.locator("#told")).to_have_text("Imported: 1 conversation. Already here: 1 conversation.")
    expect(page.locator("#conversations li button:first-child")).to_have_text([MARKUP, "mine"])
    [first, second] = stored(page)
    assert second["id"] == "1-2" != first["id"]
    assert page.evaluate("window.pwned") is None


BROKEN = "Nothing was imported: conversation 2 of this file is broken, because"
GOOD = {"id": "a", "settings": {}, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("second", "because"),
    [
        (None, "it has no messages"),
        ({"id": "b", "messages": {}}, "it has no messages"),
        ({**GOOD, "messages": [*GOOD["messages"], {"role": "assistant"}]}, "its message 2 has no text"),
        (
            {**GOOD, "messages": [{"role": "system", "content": ""}]},
            "its message 1 is neither a question nor an answer",
        ),
        (
            {**GOOD, "messages": [{"role": "user", "content": "", "parent": 0}]},
            "its message 1 follows one that is not before it",
        ),
        ({**GOOD, "messages": [{"role": "user", "content": "", "calls": [{}]}]}, "its message 1 has a wrong calls"),
        ({**GOOD, "messages": [[]]}, "its message 1 is none"),
        ({**GOOD, "tip": 1}, "it shows a message that it does not have"),
        ({**GOOD, "settings": {"seed": "7"}}, "its settings are wrong"),
    ],
)
def test_a_broken_conversation_is_named(visit, tiny_swarm: LocalSwarm, second: object, because: str) -> None:
    page = visit(tiny_swarm.url)
    text = json.dumps({"format": "potluck-conversations", "version": 1, "conversations": [GOOD, second]})
    page.get_by_role("link", name="Chat").click()
    bring(page, text)
    expect(page.locator("#trouble")).to_have_text(f"{BROKEN} {because}.")
    expect(page.locator("#conversations li button:first-child")).to_have_text(["New conversation"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "This file is not an export of Potluck's conversations."),
        ("{", "This file is not an export of Potluck's conversations."),
        ("null", "This file is not an export of Potluck's conversations."),
        ('[{"title": "of another program"}]', "This file is not an export of Potluck's conversations."),
        (
            '{"format": "potluck-conversations", "version": 2, "conversations": []}',
            "Another version of Potluck made this file, which this one cannot read.",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(visit, tiny_swarm: LocalSwarm, text: str, sentence: str) -> None:
    page = visit(tiny_swarm.url)
    page.get_by_role("link", name="Chat").click()
    bring(page, text)
    expect(page.locator("#trouble")).to_have_text(sentence)


def test_a_full_browser_says_so_and_loses_nothing(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    store(page, [GOOD])
    fill = """() => {
      for (let size = 1 << 23; size; size >>= 1) {
        try {
          localStorage.setItem("fill", (localStorage.getItem("fill") ?? "") + "x".repeat(size));
        } catch {}
      }
    }"""
    page.evaluate(fill)
    answer_with(page, event({"content": "first " * 100}, "stop"))
    page.get_by_role("button", name="New conversation").click()
    ask(page, "one")
    expect(page.locator("#full")).to_contain_text("This browser has no room for more")
    assert [talk["id"] for talk in stored(page)] == ["a"]
    page.evaluate("localStorage.removeItem('fill')")
    ask(page, "two")
    expect(page.locator("article.assistant .note")).to_have_count(2)
    expect(page.locator("#full")).to_have_text("")
    assert [len(talk["messages"]) for talk in stored(page)] == [4, 1]


def test_two_tabs_do_not_overwrite_each_other(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    other = page.context.new_page()
    other.goto(f"{tiny_swarm.url}/#chat")
    for tab, text in ((page, "one"), (other, "two"), (page, "three")):
        answer_with(tab, event({"content": "first"}, "stop"))
        tab.get_by_role("link", name="Chat").click()
        tab.locator("#fresh").click()
        ask(tab, text)
        expect(tab.locator("article.assistant .note")).to_contain_text("first token")
        for seen in (page, other):
            expect(seen.get_by_role("button", name=text, exact=True)).to_be_visible()
    assert {talk["messages"][0]["content"] for talk in stored(page)} == {"one", "two", "three"}


SILENCE = "() => { window.fetch = () => new Promise(() => {}); }"


def test_a_page_that_is_left_keeps_what_it_has_of_an_answer(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    page.get_by_role("link", name="Chat").click()
    page.evaluate(SILENCE)
    ask(page, "one")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.reload()
    expect(page.locator("article.user .text")).to_have_text("one")
    expect(page.locator("article.assistant .note")).to_have_text("broke off")


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_away(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url, before=lambda page: page.add_init_script(ANSWERS_BY_HAND))
    ask(page, "one")
    page.wait_for_function("window.pen !== undefined")
    page.evaluate("event => say(event)", event({"content": "first"}))
    expect(page.locator("article.assistant .text")).to_have_text("first")
    page.get_by_role("button", name="Delete one").click()
    expect(page.locator("article")).to_have_count(0)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert [talk for talk in stored(page) if talk["messages"]] == []
