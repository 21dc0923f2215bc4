"""The page, on the port that the WebSockets are on: what `triows.serve` takes as ``on_request``."""

import mimetypes
from pathlib import Path
from typing import Final

import triows

HERE: Final = Path(__file__).parent / "page"
HEADERS: Final = {
    # Were something that someone says taken for markup, nothing would run it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def load_page() -> dict[str, triows.HTTPResponse]:
    """Read the page's files once; returns the answer for each path."""
    answers = {}
    for file in HERE.iterdir():
        kind = mimetypes.types_map.get(file.suffix, "application/octet-stream")
        headers = {**HEADERS, "Content-Type": f"{kind}; charset=utf-8"}
        answers[f"/{file.name}"] = triows.HTTPResponse(200, headers, file.read_bytes())
    answers["/"] = answers.pop("/index.html")
    return answers


class Front:
    """Answers requests: files to those who want files, and who may open a WebSocket."""

    def __init__(self) -> None:
        self._page = load_page()

    def __call__(self, request: triows.Request) -> triows.HTTPResponse | None:
        """See ``on_request`` of `triows.serve`."""
        if not request.is_upgrade:
            return self._page.get(request.path) or triows.HTTPResponse(
                404, HEADERS, "No such page.\n"
            )
        if request.path not in {"/", "/chat"}:
            return triows.HTTPResponse(404, (), "The chat is at /chat.\n")
        if not is_from_here(request):
            return triows.HTTPResponse(403, (), "Another site's page may not speak here.\n")
        return None


def is_from_here(request: triows.Request) -> bool:
    """Say whether it is this page that asks, or no page: browsers send a page's Origin."""
    origin = request.origin
    return origin is None or origin.lower().partition("://")[2] == request.host.lower()
