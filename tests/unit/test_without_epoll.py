"""Where there is no epoll, all but the reactor works; whoever asks for that is told in one line.

A child process takes epoll away before it imports triows. Trio, which on Linux knows no
other way to wait, keeps what it needs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TAKE_AWAY = """
import os, select, sys, types
import numba, ssl, trio

trio._core._io_epoll.select = types.SimpleNamespace(**vars(select))
for module, prefixes in (select, ("epoll", "EPOLL")), (os, ("eventfd", "EFD_")):
    for name in [name for name in vars(module) if name.startswith(prefixes)]:
        delattr(module, name)
sys.platform = {platform!r}
"""

ECHO = """
import triows

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(triows.serve, echo, 0)
            async with triows.open_websocket(f"ws://127.0.0.1:{server.port}/") as ws:
                await ws.send("here and back")
                print(await ws.receive())
            nursery.cancel_scope.cancel()

trio.run(main)
"""

OPEN_REACTOR = """
import triows

async def main():
    async with triows.open_reactor():
        print("there is one")

try:
    trio.run(main)
except RuntimeError as error:
    print(error)
"""

ENGINE = """
import triows

arrived = bytearray.fromhex("81 85 37fa213d 7f9f4d5158")
triows.ServerEngine().process(arrived, lambda octets: print(bytes(octets)), lambda *_: 1)
"""

CLI = """
from triows._cli import main

ask = ["echo", "--api", "compiled"]
print(main(ask), main([*ask, "--driver", "reactor"]))
"""

WHY = "the reactor needs the epoll of Linux, which this system does not have"


@pytest.fixture(params=["linux", "darwin"])
def run(request):
    """Run a program in a process without epoll, on two systems that may lack it."""

    def run(program: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-c", TAKE_AWAY.format(platform=request.param) + program],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_server_and_client_echo(run) -> None:
    """A server and a client exchange a message over TCP."""
    assert run(ECHO) == (0, "here and back\n", "")


def test_the_engine_answers(run) -> None:
    """The engine, and the kernels below it, do what they do elsewhere."""
    assert run(ENGINE) == (0, "b'\\x81\\x05Hello'\n", "")


def test_asking_for_a_reactor_says_so(run) -> None:
    """open_reactor raises a RuntimeError of one line."""
    assert run(OPEN_REACTOR) == (0, f"{WHY}\n", "")


def test_the_command_says_so(run) -> None:
    """``triows echo --api compiled`` has status 2 and one line, whatever is said of the driver."""
    assert run(CLI) == (0, "2 2\n", f"triows echo: {WHY}\n" * 2)
