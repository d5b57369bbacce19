"""The chat page in a real browser: branches, files, models, and what a stream may bring."""

from __future__ import annotations

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from kit.browser import ANSWERS_BY_HAND, CHROMIUM, answer_with, ask, event, serve_models
from potluck.local import LocalSwarm

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

MARKUP = '<img src=x onerror="window.pwned = 1">'


def texts(page: Page) -> list[str]:
    """The texts of the branch that is shown."""
    return page.locator("article > .text").all_inner_texts()


def test_a_tree_knows_its_branches(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    told = page.evaluate(
        """async () => {
          const { add, path, versions, newest, NONE } = await import("/web/tree.js");
          const talk = { messages: [], tip: NONE };
          const write = (content, parent) => add(talk, { content }, parent);
          const shown = () => path(talk, talk.tip).map((at) => talk.messages[at].content).join("");
          const told = [path(talk, talk.tip)];
          const a = write("a", NONE), b = write("b", a), c = write("c", b);
          told.push(shown());
          const d = write("d", b), e = write("e", NONE), f = write("f", c);
          told.push(shown(), versions(talk, c), versions(talk, e), newest(talk, a), newest(talk, d), newest(talk, e));
          return told;
        }"""
    )
    assert told == [[], "abc", "abcf", [2, 3], [0, 4], 5, 3, 4]


def test_an_edited_question_is_a_branch_beside_the_old_one(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    page = visit(tiny_swarm.url)
    answer_with(page, event({"content": "first"}, "stop"))
    ask(page, "one")
    expect(page.locator("article.assistant .note")).not_to_be_empty()
    answer_with(page, event({"content": "second"}, "stop"))
    ask(page, "two")
    expect(page.locator("article.assistant .note").nth(1)).not_to_be_empty()
    page.get_by_label("Your message").fill("a draft")
    asked = answer_with(page, event({"content": "third"}, "stop"))
    page.get_by_role("button", name="Edit").first.click()
    expect(page.get_by_label("Your message")).to_have_value("one")
    expect(page.get_by_text("This will be another version of your message.")).to_be_visible()
    page.get_by_label("Your message").fill("uno")
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant .text")).to_have_text("third")
    assert texts(page) == ["uno", "third"]
    assert [one["messages"] for one in asked] == [[{"role": "user", "content": "uno"}]]
    expect(page.get_by_label("Your message")).to_have_value("a draft")
    earlier = page.get_by_role("button", name="Version 1 of 2")
    earlier.focus()
    page.keyboard.press("Enter")
    assert texts(page) == ["one", "first", "two", "second"]
    expect(page.locator(":focus")).to_have_accessible_name("Version 2 of 2")
    page.reload()
    assert texts(page) == ["one", "first", "two", "second"]
    page.keyboard.press("Tab")
    assert complaints == []


def test_an_edit_can_be_called_off(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    answer_with(page, event({"content": "first"}, "stop"))
    ask(page, "one")
    expect(page.locator("article.assistant .note")).not_to_be_empty()
    for call_off in (
        lambda: page.keyboard.press("Escape"),
        page.get_by_role("button", name="Cancel", exact=True).click,
    ):
        page.get_by_label("Your message").fill("a draft")
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Your message").fill("uno")
        call_off()
        expect(page.get_by_label("Your message")).to_have_value("a draft")
        expect(page.locator("#editing")).to_be_hidden()
        expect(page.locator(":focus")).to_have_id("prompt")
    assert texts(page) == ["one", "first"]


def test_an_answer_made_anew_is_a_branch_and_one_that_fails_is_none(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    for content in ("first", "second"):
        asked = answer_with(page, event({"content": content}, "stop"))
        if content == "first":
            ask(page, "one")
        else:
            page.get_by_role("button", name="Regenerate").focus()
            page.keyboard.press("Enter")
        expect(page.locator("article.assistant .text")).to_have_text(content)
        expect(page.locator("article.assistant .note")).not_to_be_empty()
        assert [one["messages"] for one in asked] == [[{"role": "user", "content": "one"}]]
    expect(page.locator(":focus")).to_have_id("prompt")
    expect(page.get_by_role("group", name="Versions")).to_contain_text("2/2")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=503, json={"error": {"message": "Full."}}))
    page.get_by_role("button", name="Version 1 of 2").click()
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator("#trouble")).to_have_text("Full.")
    expect(page.get_by_role("group", name="Versions")).to_contain_text("1/2")
    assert texts(page) == ["one", "first"]


def test_an_edit_that_fails_can_be_sent_again(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    answer_with(page, event({"content": "first"}, "stop"))
    ask(page, "one")
    expect(page.locator("article.assistant .note")).not_to_be_empty()
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Edit").click()
    ask(page, "uno")
    expect(page.locator("#trouble")).to_have_text("The coordinator does not answer, or the connection to it was lost.")
    assert texts(page) == ["one", "first"]
    answer_with(page, event({"content": "second"}, "stop"))
    expect(page.get_by_label("Your message")).to_have_value("uno")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("article.assistant .text")).to_have_text("second")
    assert texts(page) == ["uno", "second"]
    expect(page.get_by_label("Your message")).to_have_value("")


def test_thoughts_are_folded_once_the_answer_begins(visit, tiny_swarm: LocalSwarm, complaints) -> None:
    page = visit(tiny_swarm.url, before=lambda page: page.add_init_script(ANSWERS_BY_HAND))
    ask(page, "one")
    thoughts = page.locator("article.assistant details.thoughts")
    page.wait_for_function("window.pen !== undefined")
    page.evaluate("event => say(event)", event({"reasoning_content": f"Let me see. {MARKUP}"}))
    expect(thoughts).to_have_attribute("open", "")
    expect(thoughts.locator(".inner")).to_have_text(f"Let me see. {MARKUP}")
    page.evaluate("event => say(event)", event({"content": "It"}))
    expect(thoughts).not_to_have_attribute("open", "")
    thoughts.get_by_text("Thinking").click()
    page.evaluate("event => say(event)", event({"content": " is."}))
    expect(page.locator("article.assistant .text")).to_have_text("It is.")
    expect(thoughts).to_have_attribute("open", "")  # as its reader wants it
    page.evaluate("event => say(event)", event({}, "stop"))
    page.evaluate("() => pen.close()")
    expect(page.locator("article.assistant .note")).to_contain_text("first token")
    page.reload()
    expect(thoughts).not_to_have_attribute("open", "")
    expect(thoughts.locator(".inner")).to_have_text(f"Let me see. {MARKUP}")
    ask(page, "two")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_label("Your message")).to_have_value("two")
    assert complaints == []


def test_thoughts_are_not_sent_back_and_whole_calls_are(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": f"f{MARKUP}", "arguments": '{"a":'}}
    answer_with(
        page,
        event({"reasoning": "Hm."}),
        event({"tool_calls": [first, {"index": 1, "id": "call_2", "function": {"name": "g", "arguments": "{oops"}}]}),
        event({"tool_calls": [{"index": 0, "function": {"arguments": '[1,"b"]}'}}]}, "tool_calls"),
    )
    ask(page, "one")
    calls = page.locator("article.assistant .call")
    expect(calls.locator("p")).to_have_text([f"Calls the tool f{MARKUP}", "Calls the tool g"])
    shown = calls.locator("code").all_inner_texts()
    assert shown == [json.dumps({"a": [1, "b"]}, indent=2), "{oops"]
    page.get_by_text("Details").click()
    expect(page.locator("article.assistant dl")).to_contain_text("The model calls a tool.")
    asked = answer_with(page, event({"content": "first"}, "stop"))
    ask(page, "two")
    expect(page.locator("article.assistant .text").nth(1)).to_have_text("first")
    assert asked[0]["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": f"f{MARKUP}", "arguments": '{"a":[1,"b"]}'}}
        ],
    }
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize(
    ("last", "end", "sentence"),
    [
        ({"error": {"message": "The route was lost 5 times."}}, "data: [DONE]\n\n", "The route was lost 5 times."),
        ({"error": "Gone."}, "", "Gone."),
        (event({}), "", "The answer broke off: the coordinator ended it without a reason."),
    ],
)
def test_what_came_of_a_broken_answer_is_kept(visit, tiny_swarm: LocalSwarm, last, end: str, sentence: str) -> None:
    page = visit(tiny_swarm.url)
    answer_with(page, event({"content": "So far"}), last, end=end)
    ask(page, "one")
    expect(page.locator("#trouble")).to_have_text(sentence)
    for _ in range(2):
        expect(page.locator("article.assistant .text")).to_have_text("So far")
        expect(page.locator("article.assistant .note")).to_contain_text("broke off")
        page.get_by_text("Details").click()
        expect(page.locator("article.assistant dl")).to_contain_text(f"It broke off: {sentence}")
        page.reload()


def test_an_answer_tells_all_about_itself(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url)
    usage = {
        "prompt_tokens": 1200,
        "completion_tokens": 7,
        "nodes": ["anna 0-5"],
        "prompt_tokens_details": {"cached_tokens": 1000},
        "completion_tokens_details": {"reasoning_tokens": 3},
        "guesses": {"right": 876, "wrong": 192, "void": 166},
    }
    answer_with(page, event({"content": "So"}), event({}, "length"), {"choices": [], "usage": usage})
    ask(page, "one")
    page.get_by_text("Details").click()
    facts = page.locator("article.assistant dl > div")
    shown = {fact.locator("dt").inner_text(): fact.locator("dd").inner_text() for fact in facts.all()}
    assert shown.pop("First token").startswith("after ")
    shown.pop("Speed", None)  # of an answer that came at once, there may be none
    assert shown == {
        "Model": "tiny",
        "Answer": "7 tokens, 3 of them thinking",
        "Prompt": "1,200 tokens, 1,000 of them read before",
        "Guesses": "1,234, 71 % of them right",
        "Nodes": "anna 0-5",
        "End": "The answer was as long as it may be.",
    }


@pytest.mark.parametrize(
    ("guesses", "told"),
    [
        ({"right": 292, "wrong": 60, "void": 60}, "7 tokens · 71 % of 412 guesses were right"),
        ({"right": 0, "wrong": 1, "void": 0}, "7 tokens · 0 % of 1 guess was right"),
        (None, "7 tokens"),
        ({}, "7 tokens"),
    ],
)
def test_the_line_under_an_answer_tells_how_good_guesses_were(visit, tiny_swarm: LocalSwarm, guesses, told) -> None:
    page = visit(tiny_swarm.url)
    usage = {"prompt_tokens": 3, "completion_tokens": 7, "nodes": [], "guesses": guesses}
    answer_with(page, event({"content": "So"}, "stop"), {"choices": [], "usage": usage})
    ask(page, "one")
    for _ in range(2):  # also once it has been stored
        expect(page.locator("article.assistant .note")).to_have_text(re.compile(f" · {told}$"))
        page.reload()


def test_every_conversation_remembers_its_model(visit, tiny_swarm: LocalSwarm) -> None:
    page = visit(tiny_swarm.url, before=lambda page: serve_models(page, "small", MARKUP))
    page.get_by_role("link", name="Chat").click()
    menu = page.get_by_label("Model")
    expect(menu).to_have_value("small")
    asked = answer_with(page, event({"content": "first"}, "stop"))
    menu.select_option(MARKUP)
    ask(page, "one")
    expect(page.locator("article.assistant .note")).not_to_be_empty()
    page.get_by_role("button", name="New conversation").click()
    expect(menu).to_have_value(MARKUP)  # as the one before
    menu.select_option("small")
    ask(page, "two")
    expect(page.locator("article.assistant .note")).not_to_be_empty()
    page.reload()
    page.get_by_role("button", name="one", exact=True).click()
    expect(menu).to_have_value(MARKUP)
    assert [one["model"] for one in asked] == [MARKUP, "small"]
    serve_models(page, "small", "large")
    ask(page, "three")
    expect(page.locator("#gone")).to_have_text(f"{MARKUP} is not served now. small answers.")
    expect(page.locator("article.assistant .note").nth(1)).not_to_be_empty()
    assert [one["model"] for one in asked] == [MARKUP, "small", "small"]
    serve_models(page, "small")
    page.reload()
    expect(page.locator("#models option")).to_have_count(1)
    expect(page.locator("#models-label")).to_be_hidden()
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("modern", [True, False])
def test_messages_and_their_code_can_be_copied(visit, tiny_swarm: LocalSwarm, modern: bool) -> None:
    """Also where the page comes without TLS from another machine, and the browser gives it no clipboard."""
    script = "" if modern else "delete Navigator.prototype.clipboard"
    page = visit(
        tiny_swarm.url,
        before=lambda page: page.add_init_script(script),
        permissions=["clipboard-read", "clipboard-write"],
    )
    text = "So:\n\n```py\nprint(1)\n```\n\nThus."
    answer_with(page, event({"content": text}, "stop"))
    ask(page, "one")
    for name, copied in (("Copy the code", "print(1)"), ("Copy", text)):
        button = page.locator("article.assistant").get_by_role("button", name=name, exact=True)
        button.click()
        expect(page.locator("#told")).to_have_text("Copied.")
        expect(button).to_be_focused()
        prompt = page.get_by_label("Your message")
        prompt.fill("")
        prompt.press("Control+v")
        expect(prompt).to_have_value(copied)


@pytest.mark.parametrize("width", [1280, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_of_the_chat_is_for_everybody(visit, tiny_swarm: LocalSwarm, scheme: str, width: int) -> None:
    view = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    page = visit(tiny_swarm.url, before=lambda page: serve_models(page, "small", "l" * 90), **view)
    call = {"index": 0, "id": "call_1", "function": {"name": "f" * 90, "arguments": f'{{"a": "{"b" * 90}"}}'}}
    answer_with(
        page,
        event({"reasoning_content": "m" * 90}),
        event({"content": f"```\n{'c' * 90}\n```"}),
        event({"tool_calls": [call]}, "tool_calls"),
    )
    page.get_by_role("link", name="Chat").click()
    name = f"{'n' * 90}.txt"
    page.locator("#choose").set_input_files({"name": name, "mimeType": "", "buffer": b"t" * 90})
    expect(page.get_by_role("button", name=f"Remove {name}")).to_be_visible()
    ask(page, "one")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("group", name="Versions")).to_contain_text("2/2")
    for summary in ("Thinking", "Details", "Export and import", name):
        page.get_by_text(summary, exact=True).first.click()
    page.get_by_role("button", name="Edit").click()
    page.locator("#trouble").evaluate("line => { line.textContent = 'Something is wrong.'; }")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    talk = page.locator("#talk").bounding_box()
    assert talk is not None
    assert talk["x"] + talk["width"] <= width
