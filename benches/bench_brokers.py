"""What a broker on Redis costs: how late a message is in another process, and local fan-out.

    python benches/bench_brokers.py --processes 2,4 --rate 5000 --seconds 10 \
        --output benches/results/brokers.json

**Delivery**: so many processes publish RATE messages a second between them, all in the same rooms,
and each notes how late those of the others come. **Round**: what Redis spends on a message, by the
number of connections that it goes to. **Rooms**: one process, whose tasks receive what
one of them publishes, as fast as that goes, with and without Redis. **Fan-out**: one server's
WebSockets, one of which sends, with a window, as in `bench_fanout`. There each turn of the window
waits for Redis, and the server with it: its share of the core says how long, and its CPU for a
delivery what Redis adds. A window that is wide, or of many members, has turns for which that is
little. With and without Redis take turns, and before that the one without is measured against
itself. Redis is started on the core of the generator. Linux only.
"""

import argparse
import contextlib
import json
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench_echo import GENERATOR_CORE, SERVER_CORE, on_core, running
from bench_fanout import alternate, report
from brokers_peer import SETTLE
from fanout_load import Shape, warm_up
from surroundings import describe, keep

HERE = Path(__file__).resolve().parent
PEER = HERE / "brokers_peer.py"
PUBLISHER = HERE / "brokers_publisher.py"
ROOMS = HERE / "brokers_rooms.py"
SERVER = (sys.executable, str(HERE / "brokers_server.py"))


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Start a Redis that writes nothing to its disk; gives its URL."""
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory) / "socket"
        options = ("--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory)
        process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            while not socket.exists() and process.poll() is None:
                time.sleep(0.01)
            yield f"redis+unix://{socket}"
        finally:
            process.kill()
            process.wait()


def deliver(url: str, count: int, args: argparse.Namespace) -> dict[str, object]:
    """Have processes publish to each other; returns and prints what each has seen."""
    numbers = (count, args.rate // count, args.seconds, args.rooms, args.octets)
    prefix = f"delivery-{count}:"
    processes = [
        subprocess.Popen(
            [sys.executable, PEER, url, prefix, f"peer-{n}", *map(str, numbers)],
            stdout=subprocess.PIPE,
        )
        for n in range(count)
    ]
    seen, spent = [], redis_cpu(url)
    for process in processes:
        out, _ = process.communicate(timeout=args.seconds + 60)
        if process.returncode:
            sys.exit(f"a process failed with {process.returncode}")
        seen.append(json.loads(out))
    share = args.rate // count * args.seconds * (count - 1)
    for one in seen:
        print(
            f"{count} processes, {args.rate}/s: heard {one['heard']} of {share}, "
            f"p50 {one['p50_ms']:.2f} ms, p99 {one['p99_ms']:.2f} ms, "
            f"p99.9 {one['p999_ms']:.2f} ms, "
            f"worst {one['max_ms']:.1f} ms, "
            f"{one['cpu_share']:.0%} of a core + {one['wait_share']:.0%} waiting",
            flush=True,
        )
    spent = (redis_cpu(url) - spent) / (args.rate * (args.seconds + SETTLE))
    print(f"Redis: {1e6 * spent:.1f} µs of CPU for each message")
    return {"processes": count, "expected": share, "redis_cpu_us": 1e6 * spent, "seen": seen}


def send_round(url: str, count: int, args: argparse.Namespace) -> dict[str, object]:
    """Have a message go to so many connections; returns and prints what Redis spends on it."""
    path, prefix = url.removeprefix("redis+unix://"), f"round-{count}:"
    is_over = threading.Event()
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(count):
            subscriber = stack.enter_context(socket.socket(socket.AF_UNIX))
            subscriber.connect(path)
            subscriber.sendall(f"SUBSCRIBE {prefix}c:room\r\n".encode())
            selector.register(subscriber, selectors.EVENT_READ)

        def read() -> None:
            while not is_over.is_set():
                for key, _ in selector.select(0.1):
                    key.fileobj.recv(2**16)

        reader = threading.Thread(target=read)
        reader.start()
        spent, numbers = redis_cpu(url), (str(args.rate), "4")
        subprocess.run([sys.executable, PUBLISHER, url, prefix, *numbers], check=True)
        spent = 1e6 * (redis_cpu(url) - spent) / (4 * args.rate)
        is_over.set()
        reader.join()
    print(f"{count} subscribers: Redis spends {spent:.1f} µs of CPU on a message", flush=True)
    return {"subscribers": count, "redis_cpu_us": spent}


def redis_cpu(url: str) -> float:
    """Return the seconds of CPU, of the system's too, that Redis has spent."""
    command = ["redis-cli", "-s", url.removeprefix("redis+unix://"), "info", "cpu"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = dict(line.strip().split(":") for line in told.splitlines() if ":" in line)
    return float(lines["used_cpu_sys"]) + float(lines["used_cpu_user"])


def fill_rooms(url: str, args: argparse.Namespace) -> dict[str, object]:
    """Measure local fan-out to tasks: without Redis twice, and with it, in turn."""
    ways: dict[str, list[str]] = {"local": [], "local'": [], "redis": [url]}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, more in ways.items():
            command = [sys.executable, ROOMS, str(args.members), str(args.fan_out_seconds), *more]
            with on_core(SERVER_CORE):
                out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            samples[name].append(json.loads(out))
    rows = {}
    for name, taken in samples.items():
        pairs = list(zip(taken, samples["local"], strict=True))
        rows[name] = {
            "rate": statistics.median(one["rate"] for one in taken),
            "cpu_us": statistics.median(one["cpu_us"] for one in taken),
            "rate_to_local": statistics.median(a["rate"] / b["rate"] for a, b in pairs),
            "cpu_to_local": statistics.median(a["cpu_us"] / b["cpu_us"] for a, b in pairs),
            "samples": taken,
        }
        print(
            "{} tasks, {:6} {rate:10,.0f}/s x{rate_to_local:5.2f}  "
            "{cpu_us:6.3f} µs x{cpu_to_local:5.2f}".format(args.members, name, **rows[name]),
            flush=True,
        )
    return {"members": args.members, "ways": rows}


def fan_out(url: str, args: argparse.Namespace) -> dict[str, object]:
    """Measure local fan-out through a broker of the process, and through Redis."""
    names = ("local", "redis")
    first, *_ = shapes = [Shape.parse(shape) for shape in args.shapes.split(",")]
    commands = (SERVER, (*SERVER, "--redis", url))
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(running(name, command))
            for name, command in zip(names, commands, strict=True)
        ]
        stack.enter_context(on_core(GENERATOR_CORE))
        with running("local", SERVER) as twin:
            pair = alternate((servers[0], twin), first, args.fan_out_seconds, args.rounds)
        print("A/A, without Redis against itself:")
        itself = report(first, ("local", "local'"), pair, 1)
        print("A/B, with Redis against without:")
        tables = []
        for shape in shapes:
            samples = alternate(servers, shape, args.fan_out_seconds, args.rounds)
            tables.append(report(shape, names, samples, 0))
        return {"a_a": itself, "shapes": tables}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", default="2,4", help="how many, comma-separated")
    parser.add_argument("--subscribers", default="1,50,100", help="of one room, comma-separated")
    parser.add_argument("--rate", type=int, default=5_000, help="messages a second, of all")
    parser.add_argument("--seconds", type=int, default=10, help="of publishing")
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--octets", type=int, default=64, help="of each message")
    parser.add_argument("--members", type=int, default=500, help="tasks that receive")
    parser.add_argument(
        "--shapes", default="500/64x4,500/64x64,2000/64x16", help="as in bench_fanout"
    )
    parser.add_argument("--fan-out-seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="of fan-out; 0 to leave it out")
    parser.add_argument("--output", type=Path, help="a JSON file, say below benches/results/")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> dict[str, object]:
    """Measure everything asked for."""
    with on_core(GENERATOR_CORE):
        stack = contextlib.ExitStack()
        url = stack.enter_context(redis_server())
    with stack:
        version = subprocess.run(
            ["redis-server", "--version"], capture_output=True, text=True, check=True
        )
        counts = [int(count) for count in args.processes.split(",") if count]
        found: dict[str, object] = {"redis": version.stdout.strip()}
        found["delivery"] = [deliver(url, count, args) for count in counts]
        audiences = [int(count) for count in args.subscribers.split(",") if count]
        found["round"] = [send_round(url, count, args) for count in audiences]
        if args.rounds:
            found["rooms"] = fill_rooms(url, args)
            warm_up()
            found["fan_out"] = fan_out(url, args)
        return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    args = parse(argv)
    keep({**describe(__file__, argv or sys.argv[1:]), **run(args)}, args.output)


if __name__ == "__main__":
    main()
