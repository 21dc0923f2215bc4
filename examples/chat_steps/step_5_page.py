"""A chat, step 5: a page on the same port."""

from functools import partial

import trio

import triows

chat = triows.BroadcastChannel[str](history=20)

PAGE = """<!doctype html>
<html lang="en"><title>Chat</title><script type="module" src="chat.js"></script>
<ol id="log"></ol>
<form id="form"><label>Say <input id="text"></label> <button>Send</button></form></html>
"""
SCRIPT = """
const [log, form, text] = ["log", "form", "text"].map((id) => document.getElementById(id));
const ws = new WebSocket(new URL("/", location.href.replace(/^http/, "ws")));
ws.onmessage = ({ data }) => {
  log.append(Object.assign(document.createElement("li"), { textContent: data }));
};
form.onsubmit = (event) => {
  event.preventDefault();
  ws.send(text.value);
  form.reset();
};
"""
POLICY = {"Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'"}
FILES = {
    "/": triows.HTTPResponse(200, {**POLICY, "Content-Type": "text/html"}, PAGE),
    "/chat.js": triows.HTTPResponse(200, {**POLICY, "Content-Type": "text/javascript"}, SCRIPT),
}


def answer(request: triows.Request) -> triows.HTTPResponse | None:
    if not request.is_upgrade:
        return FILES.get(request.path) or triows.HTTPResponse(404, (), "No such page.\n")
    if request.origin not in (None, f"http://{request.host}"):
        return triows.HTTPResponse(403, (), "Another site's page may not speak here.\n")
    return None


async def serve_member(ws: triows.WebSocket) -> None:
    with chat.attach(ws):
        async for line in ws:
            chat.publish_nowait(str(line))


if __name__ == "__main__":
    trio.run(partial(triows.serve, serve_member, 8765, on_request=answer))
