"""What the tests of the pages share: how a chat is driven, and what a hostile model says."""

from __future__ import annotations

import json
import shutil
from typing import Any

from playwright.sync_api import Page, Route

CHROMIUM = shutil.which("chromium")
HOSTILE = """<img src=x onerror="window.pwned = 1"><script>window.pwned = 1</script>

[click](javascript:window.pwned=1) ![seen](https://evil.example/pixel.png) [data](data:text/html,<script>1</script>)

**bold**, `code <b>` and *soft*

- one
  - two

Who brings what:
| dish | *who* |
|:---|---|
| <b>soup</b> | a \\| b | nobody |
| bread

```html
<iframe srcdoc="<script>parent.pwned = 1</script>"></iframe>
```
"""


def ask(page: Page, text: str) -> None:
    page.get_by_role("link", name="Chat").click()
    page.get_by_label("Your message").fill(text)
    page.get_by_role("button", name="Send").click()


def set_answers(page: Page, tokens: int) -> None:
    """So long at most, and the same every time."""
    page.get_by_role("link", name="Chat").click()
    page.get_by_text("Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Longest answer").fill(str(tokens))
    page.get_by_text("Settings").click()


def event(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
    """An event of a chat's stream."""
    return {"model": "tiny", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def answer_with(page: Page, *events: dict[str, object], end: str = "data: [DONE]\n\n") -> list[dict[str, Any]]:
    """Lets every question of this page be answered so. Returns the questions as they come."""
    asked: list[dict[str, Any]] = []
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in events) + end

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json or {})
        route.fulfill(content_type="text/event-stream", body=body)

    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", answer)
    return asked


ANSWERS_BY_HAND = """
  const fetched = window.fetch;
  window.fetch = (path, options) => {
    if (path !== "/v1/chat/completions") return fetched(path, options);
    const stream = new ReadableStream({ start: (pen) => { window.pen = pen; } });
    options.signal.addEventListener("abort", () => window.pen.error(options.signal.reason));
    return Promise.resolve(new Response(stream));
  };
  window.say = (event) => window.pen.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(event)}\\n\\n`));
"""
"""A script that lets a test `say` one event after the other."""


def serve_models(page: Page, *names: str) -> None:
    """Lets the page be told that these models may be asked."""
    told = {"object": "list", "data": [{"id": name} for name in names]}
    page.unroute("**/v1/models")
    page.route("**/v1/models", lambda route: route.fulfill(json=told))


def tell_status(page: Page, *told: dict[str, Any]) -> None:
    """Lets the page be told the status of these models from now on; it asks again every other second."""
    body = f"data: {json.dumps(told[0] if len(told) == 1 else {'models': told})}\n\n"
    page.unroute("**/status/events")
    page.route("**/status/events", lambda route: route.fulfill(content_type="text/event-stream", body=body))
