"""The chat as its users have it: the program, a line to it that can be cut, and the page."""

import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.interop.node import node_modules

HERE = Path(__file__).parent
PROGRAM = HERE.parents[1] / "examples" / "chat_broker.py"
PATIENCE = 30.0  # seconds: a page that finds no server tries again after up to 15
SHOWN_TEXTS = r"""
return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility())
    .map((one) => one.innerText.replace(/\s+/g, " ").trim())
"""


class Server:
    """The chat broker as a process; *port* stays the same when it is started anew."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it has said where it is."""
        command = [sys.executable, str(PROGRAM), "--port", str(self.port)]
        self._process = process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert select.select([process.stdout], [], [], 60)[0], "the chat does not start"
        line = process.stdout.readline()
        assert line.startswith("Open http://127.0.0.1:"), line
        self.port = int(line.rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal, wait for its end, and return its status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()
            process.stdout.close()


class Line:
    """A TCP line to a port on loopback that can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._is_whole = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End what is connected, and take no more until it is mended."""
        self._is_whole = False
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._is_whole = True

    def close(self) -> None:
        """End everything."""
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._is_whole:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_carry, args=(source, target), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while octets := source.recv(65_536):
            target.sendall(octets)
        target.shutdown(socket.SHUT_WR)


class Page:
    """The page in a browser, as a person sees it."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def open(self, port: int, nick: str, room: str) -> None:
        """Open the page afresh, give a name, and wait until one is in the room."""
        self.browser.get(f"http://127.0.0.1:{port}/style.css")  # from there, and with no script
        self.script("localStorage.clear(); sessionStorage.clear()")
        self.browser.get(f"http://127.0.0.1:{port}/#{room}")
        self.find("#nick").send_keys(nick, Keys.ENTER)
        self.until(lambda: self.status == "Connected")
        self.until(lambda: nick in self.people)

    def script(self, source: str, *args: Any) -> Any:
        """Run a function's body in the page."""
        return self.browser.execute_script(source, *args)

    def find(self, selector: str) -> WebElement:
        """Return an element."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of what is shown and fits *selector*."""
        return self.script(SHOWN_TEXTS, selector)

    def count(self, selector: str) -> int:
        """Return how many elements fit *selector*."""
        return len(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def say(self, *lines: str) -> None:
        """Type lines into the composer and send each with Enter."""
        for line in lines:
            self.find("#text").send_keys(line, Keys.ENTER)

    def until(self, is_true: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, self.script("return document.body.innerText")
            time.sleep(0.02)

    def until_said(self, *texts: str) -> None:
        """Wait until these are the messages in the room that is shown, each once, in order."""
        self.until(lambda: self.said == list(texts))

    @property
    def said(self) -> list[str]:
        """The messages in the room that is shown."""
        return self.script(
            "return [...document.querySelectorAll('.room:not([hidden]) .message .text')]"
            ".map((one) => one.textContent)"
        )

    @property
    def people(self) -> list[str]:
        """Who is listed as being in the room."""
        return self.script(
            "return [...document.querySelectorAll('#people li')]"
            ".map((one) => one.firstChild.textContent)"
        )

    @property
    def status(self) -> str:
        """What the page says of its connection."""
        return self.find("#status").text

    def resize(self, width: int, height: int = 700) -> None:
        """Show it on a screen of this size."""
        metrics = {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        }  # fmt: skip
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """Show it to someone who prefers a colour scheme, ``light`` or ``dark``."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def violations(self) -> list[str]:
        """Have axe look at the page; returns what it finds wrong."""
        axe = node_modules(HERE) / "axe-core" / "axe.min.js"
        self.script(axe.read_text() + ";window.axe = axe")
        found = self.browser.execute_async_script(
            "const done = arguments[0]; axe.run().then((r) => done(r.violations), (e) => done([e]))"
        )
        return [
            f"{one.get('id', one)}: {node['html']} {node.get('failureSummary')}"
            for one in found
            for node in one.get("nodes", [{"html": ""}])
        ]

    def errors(self) -> list[str]:
        """What the browser has complained of since the last call, but for lost connections."""
        log = [entry["message"] for entry in self.browser.get_log("browser")]
        expected = (
            "WebSocket connection to",
            "/favicon.ico",
        )  # the latter for style.css, in `open`
        return [line for line in log if not any(one in line for one in expected)]
