"""A server in a process of its own, which tells what it holds.

A script. Its arguments: ``reactor`` for a server without tasks, one of `WITH_TASKS` for one
with a task for each connection; how many threads the first has; and the addresses to listen
on. It prints one line of JSON once it listens, and one for each line that it reads;
it ends with its input.
"""

import ctypes
import gc
import json
import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

import trio

import triows
from triows._kernels import slots


async def echo(ws):
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


async def echo_each(ws):
    """Do the same without a loop over the messages."""
    while True:
        await ws.send(await ws.receive())


WITH_TASKS = {
    "tasks": (echo, "reactor"),
    "receivers": (echo_each, "reactor"),
    "stream": (echo, "stream"),
}
"""Handlers and drivers."""


def count_descriptors():
    """How many descriptors this process has open, counted without a list of them."""
    with os.scandir("/proc/self/fd") as found:
        return sum(1 for _ in found)


def resident():
    """Octets of this process that are in memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def forget_deadlines():
    """Have Trio forget the deadlines that were called off: it keeps a thousand, for speed."""
    trio._core._run.GLOBAL_RUN_CONTEXT.runner.deadlines._prune()


def measure():
    """What this process holds, and what it has used; what is free is given back first."""
    forget_deadlines()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return {
        "resident": resident(),
        "descriptors": count_descriptors(),
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "cpu": time.process_time(),
    }


async def answer(listening, count):
    """Answer each line of the input with a line of figures."""
    print(json.dumps([list(address) for address in listening]), flush=True)
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as questions:
        async for octets in questions:
            for _ in range(octets.count(b"\n")):
                print(json.dumps(measure() | count()), flush=True)


async def serve_by_reactor(threads, hosts):
    """Serve an echo that no Python code has a part in."""
    async with triows.open_reactor(threads=threads, shutdown_grace=0.1) as reactor:
        listening = [(await reactor.listen(0, host=host))[0] for host in hosts]

        def count():
            found = reactor.statistics().total
            loops = [driver._loop for driver in reactor._drivers]
            return {
                "connections": found.connections,
                "opened": found.opened,
                "slots": sum(int(loop._registers[slots.USED_SLOTS]) for loop in loops),
            }

        await answer(listening, count)


async def serve_with_tasks(handler, driver, hosts):
    """Serve by a task for each connection."""
    async with trio.open_nursery() as nursery:
        start = partial(triows.serve, handler, 0, driver=driver, shutdown_grace=0.1)
        servers = [await nursery.start(partial(start, host=host)) for host in hosts]

        def count():
            found = [server.statistics() for server in servers]
            return {
                "connections": sum(one.connections for one in found),
                "opened": sum(one.opened for one in found),
            }

        await answer([server.addresses[0] for server in servers], count)
        nursery.cancel_scope.cancel()


def main():
    """Serve as the arguments say."""
    kind, threads, *hosts = sys.argv[1:]
    if kind == "reactor":
        trio.run(serve_by_reactor, int(threads), hosts)
    else:
        trio.run(serve_with_tasks, *WITH_TASKS[kind], hosts)


if __name__ == "__main__":
    main()
