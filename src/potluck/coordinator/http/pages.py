"""The pages for people: files that come with this package, and the rules that keep everything else out of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from potluck.errors import RequestError

_FOLDER = Path(__file__).parent / "web"
_HOME = "index.html"
_MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
_RULES = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Page:
    """One file of the pages. tag: that of these very bytes, so that browsers need not download them again."""

    body: bytes
    media: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> Page:
        body = path.read_bytes()
        return cls(body, _MEDIA[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:16]}"')


class Pages:
    """The pages. They hold no data of the swarm, so everybody may have them. What they show they request with a key."""

    def __init__(self) -> None:
        self._pages = {path.name: Page.read(path) for path in _FOLDER.iterdir() if path.suffix in _MEDIA}

    async def home(self, request: Request) -> Response:
        return _give(request, self._pages[_HOME])

    async def page(self, request: Request) -> Response:
        page = self._pages.get(request.path_params["name"])
        if page is None:
            raise RequestError("There is no such page.", status=404)
        return _give(request, page)


def _give(request: Request, page: Page) -> Response:
    headers = {**_RULES, "ETag": page.tag}
    if request.headers.get("if-none-match") == page.tag:
        return Response(status_code=304, headers=headers)
    return Response(page.body, headers=headers, media_type=page.media)
