"""The chat as a program: its options, its log, its end, and `triows connect` as its client."""

import json
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import triows

PROGRAM = Path(__file__).parents[2] / "examples" / "chat_broker.py"
DEADLINE = 60.0  # seconds; a cold cache means compiling first

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm")]


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the chat on a free port; gives the process and the chat's URL."""
    command = [sys.executable, str(PROGRAM), "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert select.select([process.stdout], [], [], DEADLINE)[0]
            line = process.stdout.readline()
            yield process, re.fullmatch(r"Open (http://\S+:\d+)\n", line)[1]
        finally:
            process.kill()


def connect(url: str, *lines: str) -> subprocess.Popen[str]:
    """Start ``triows connect`` and type lines."""
    command = [sys.executable, "-m", "triows", "connect", url.replace("http", "ws") + "/chat"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program(number) -> None:
    """People talk by ``triows connect``; a signal ends it in order, with status 0, and is told."""
    with running("--history", "5") as (process, url):
        ann = connect(url, "/nick ann", "hello")
        for _ in range(4):
            ann.stdout.readline()
        said, errors = connect(url, "/who").communicate(timeout=DEADLINE)
        assert re.search(r"^\[\d\d:\d\d\] ann: hello$", said, re.MULTILINE)
        assert re.search(r"^\* in lobby: ann, guest-2$", said, re.MULTILINE)
        assert errors == ""
        process.send_signal(number)
        said = ann.stdout.read()  # which leaves it its input, at whose end it would go by itself
        _, errors = ann.communicate(timeout=DEADLINE)
        assert said.splitlines()[-1] == "* The server is shutting down."
        assert (ann.returncode, errors) == (0, "")
        _, log = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0
        events = [(line["event"], line["nick"]) for line in map(json.loads, log.splitlines())]
        assert events[0] == ("came", "guest-1")
        assert sorted(events[1:]) == [("came", "guest-2"), ("left", "ann"), ("left", "guest-2")]


async def test_more_clients_than_it_takes() -> None:
    """One more than ``--max-clients`` is closed with 1013."""
    with running("--max-clients", "1", "--host", "localhost") as (_, url):
        target = url.replace("http", "ws") + "/chat"
        async with triows.open_websocket(target) as first, triows.open_websocket(target) as second:
            assert "guest-1" in await first.receive()
            with pytest.raises(triows.ConnectionBroken) as caught:
                await second.receive()
            assert caught.value.code == 1013
        async with triows.open_websocket(target) as third:
            with trio.fail_after(10):
                assert "guest-2" in await third.receive()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "x"], "invalid integer"),
        (["--port", "65536"], "65536 is not in 0..65535"),
        (["--history", "-1"], "-1 is not 0 or more"),
        (["--max-clients", "0"], "0 is not 1 or more"),
        (["--driver", "fast"], "invalid choice"),
        (["--nonsense"], "unrecognized"),
    ],
)
def test_options_that_are_not_understood(options, words) -> None:
    """They end it with status 2 and say what was wrong."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr


def test_a_port_in_use_is_one_line() -> None:
    """What it cannot do as it was told ends it with status 1, and one line that says why."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--port", port],
            capture_output=True,
            text=True,
            check=False,
        )
    place = f"127.0.0.1 port {port}"
    assert re.fullmatch(f"chat_broker.py: cannot listen on {place}: .*\n", done.stderr)
    assert done.returncode == 1
