"""A server that is killed at random, again and again, and started anew on the same port.

    python mortal_server.py PORT FILE DEATHS SEED

Each life is a process of its own, forked from one that has everything imported: it appends
each message to FILE, then sends it back, which acknowledges it. After DEATHS kills a last life
goes on until the standard input ends. The server is `websockets`, not triows.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time

from websockets.asyncio.server import ServerConnection, serve

LONGEST_LIFE, LONGEST_DEATH = 0.08, 0.06


async def live(port: int, file: int) -> None:
    """Store and acknowledge until killed."""

    async def acknowledge(connection: ServerConnection) -> None:
        async for message in connection:
            os.write(file, f"{message}\n".encode())
            await connection.send(message)

    async with serve(acknowledge, "127.0.0.1", port, compression=None):
        await asyncio.Future()


def fork(port: int, file: int) -> int:
    """Begin a life; gives its process."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            asyncio.run(live(port, file))
        os._exit(1)
    return pid


def main() -> None:
    """Live and die."""
    port, path, deaths, seed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    chance = random.Random(seed)
    for _ in range(deaths):
        pid = fork(port, file)
        time.sleep(0.02 + LONGEST_LIFE * chance.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        time.sleep(LONGEST_DEATH * chance.random())
    pid = fork(port, file)
    print("immortal", flush=True)
    sys.stdin.read()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
