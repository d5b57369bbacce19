"""What the tests of the pages share: how a chat is driven, and what a hostile model says."""

from __future__ import annotations

import shutil

from playwright.sync_api import Page

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
