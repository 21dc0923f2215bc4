"""Real proxies, started on loopback and ended with the test: tinyproxy and microsocks.

Skips the test where the program is missing, or fails it where ``CI`` is "true"; see
`docs/how-to/run-the-tests.md`.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio

PACKAGES = {"tinyproxy": "tinyproxy-bin", "microsocks": "microsocks"}
"""Debian's package of each program."""

PATIENCE = 10.0
"""Seconds that a proxy may take to listen."""


def find(program: str) -> str:
    """The path of a program."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") or _give_up(program)


def _give_up(program: str) -> NoReturn:
    why = f"there is no {program}: apt-get install {PACKAGES[program]}"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def free_port() -> int:
    """A port on loopback that nothing uses at the moment."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def run(command: list[str]) -> Iterator[None]:
    """Run a program for the time of a block."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def wait_listening(port: int) -> None:
    """Wait until something listens on *port*."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.02)
            else:
                await stream.aclose()
                return


@contextmanager
def tinyproxy(directory: Path, *, credentials: str = "") -> Iterator[int]:
    """Run tinyproxy, which lets clients of loopback connect anywhere; gives its port."""
    program, port = find("tinyproxy"), free_port()
    lines = [
        f"Port {port}",
        "Listen 127.0.0.1",
        "Allow 127.0.0.1",
        f'LogFile "{directory}/log"',
        "LogLevel Connect",
        "MaxClients 50",
        "Timeout 60",
    ]
    if credentials:
        lines.append(f"BasicAuth {credentials}")
    settings = directory / "tinyproxy.conf"
    settings.write_text("\n".join(lines) + "\n")
    with run([program, "-d", "-c", str(settings)]):
        yield port


@contextmanager
def microsocks(*options: str) -> Iterator[int]:
    """Run microsocks; gives its port."""
    program, port = find("microsocks"), free_port()
    with run([program, "-i", "127.0.0.1", "-p", str(port), *options]):
        yield port
