"""Real Redis servers, started on free ports of loopback, killed, started again, and ended.

Skips the test where there is no ``redis-server``, or fails it where ``CI`` is "true".
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NoReturn, Self

import pytest

from tests.interop.proxies import free_port

PATIENCE = 20.0
"""Seconds that a server may take to answer."""


class RedisServer:
    """A server whose data outlive it; ended with its block.

    Args:
        directory: where the data are.
        is_durable: whether each write is on the disk before it is answered.
        options: of the program besides.
    """

    def __init__(self, directory: Path, *, is_durable: bool = False, **options: object) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._is_durable = is_durable
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        directory = self._directory
        directory.mkdir(exist_ok=True)
        program = shutil.which("redis-server") or _give_up()
        options = {
            "port": self.port, "bind": "127.0.0.1", "dir": directory, "save": "",
            "appendonly": "yes" if self._is_durable else "no", "appendfsync": "always",
            "daemonize": "no", "logfile": directory / "log",
            **self._options,
        }  # fmt: skip
        command = [
            program,
            *(part for name, value in options.items() for part in (f"--{name}", str(value))),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self._wait_ready()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        cli = shutil.which("redis-cli") or _give_up()
        while time.monotonic() < deadline:
            asked = subprocess.run(
                [cli, "-p", str(self.port), "ping"], capture_output=True, check=False
            )
            if asked.stdout.strip() == b"PONG":
                return
            time.sleep(0.02)
        raise TimeoutError((self._directory / "log").read_text())

    def ask(self, *command: str) -> str:
        """Run a command there."""
        asked = subprocess.run(
            ["redis-cli", "-p", str(self.port), *command], capture_output=True, check=True
        )
        return asked.stdout.decode().strip()

    def stop(self) -> None:
        """Let it answer no one, without closing anything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it, as a crash would; harmless if there is none."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _give_up() -> NoReturn:
    why = "there is no redis-server: apt-get install redis-server"
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)
