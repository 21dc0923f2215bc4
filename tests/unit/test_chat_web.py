"""The chat's page as it is served: its files, its policy, and who may open a WebSocket."""

import re
from functools import partial

import pytest
import trio

import triows
from chat import Front
from chat.web import HERE


@pytest.fixture
async def address(nursery):
    """Where the page and its WebSockets are served."""
    serve = partial(triows.serve, trio.sleep, 0, on_request=Front(), subprotocols=["chat.v1"])
    server = await nursery.start(serve)
    return f"127.0.0.1:{server.port}"


async def ask(address: str, target: str, **fields: str) -> tuple[str, bytes]:
    """Send a GET request; returns the answer's head, in lower case, and its body."""
    host, port = address.split(":")
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        request = f"GET {target} HTTP/1.1\r\nHost: {address}\r\n{head}\r\n"
        await stream.send_all(request.encode())
        answer = b""
        with trio.move_on_after(10):
            async for octets in stream:
                answer += octets
                if answer.startswith(b"HTTP/1.1 101"):
                    break
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), body


UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.mark.parametrize(
    ("target", "name", "kind"),
    [
        ("/", "index.html", "text/html"),
        ("/style.css", "style.css", "text/css"),
        ("/main.js", "main.js", "javascript"),
        ("/icon.svg", "icon.svg", "image/svg+xml"),
    ],
)
async def test_files(address, target, name, kind):
    """Each file of the page comes with its type and with the strict policy."""
    head, body = await ask(address, target)

    assert head.startswith("http/1.1 200 ")
    assert re.search(rf"content-type: \S*{re.escape(kind)}; charset=utf-8\r\n", head)
    assert "content-security-policy: default-src 'none'; script-src 'self'; " in head
    assert "unsafe" not in head
    assert "x-content-type-options: nosniff" in head
    assert body == (HERE / name).read_bytes()


@pytest.mark.parametrize("target", ["/index.htm", "/../web.py", "/%2e%2e/web.py", "//etc/passwd"])
async def test_nothing_else_is_served(address, target):
    """Other paths do not lead anywhere, least of all out of the page's directory."""
    head, _ = await ask(address, target)

    assert head.startswith("http/1.1 404 ")


async def test_where_the_chat_is(address):
    """WebSockets are opened at two paths and nowhere else."""
    for target, status in (("/", 101), ("/chat", 101), ("/elsewhere", 404)):
        head, _ = await ask(address, target, **UPGRADE)
        assert head.startswith(f"http/1.1 {status} ")


async def test_other_sites_may_not_speak_here(address):
    """A page of another origin gets a 403; this page, and programs, may open a WebSocket."""
    port = address.split(":")[1]
    for origin, status in (
        (f"http://{address}", 101),
        ("https://evil.example", 403),
        ("null", 403),
        (f"http://127.0.0.1.evil.example:{port}", 403),
        ("http://127.0.0.1:1", 403),
    ):
        head, _ = await ask(address, "/chat", Origin=origin, **UPGRADE)
        assert head.startswith(f"http/1.1 {status} "), origin


def test_the_page_needs_nothing_from_elsewhere():
    """No file of it names another host, or has a script, style or handler in its markup."""
    for file in HERE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""["'(](https?:)?//""", text), file
    page = (HERE / "index.html").read_text()
    assert not re.search(r"<style|<script(?! type=\"module\" src=)|\son\w+=|style=", page)
    scripts = "".join(file.read_text() for file in HERE.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)
