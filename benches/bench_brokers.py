"""What a broker on Redis costs: how late a message is in another process, and local fan-out.

    python benches/bench_brokers.py --processes 2,4 --rate 5000 --seconds 10 \
        --output benches/results/brokers.json

**Delivery**: so many processes publish RATE messages a second between them, all in the same rooms,
and each notes how late those of the others come. **Fan-out**: one server's clients, one of which
sends, as in `bench_fanout`, with and without Redis between publishing and fan-out; the two servers
take turns, and before that the first is measured against itself. Redis is started on the core of
the generator. Linux only.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench_echo import GENERATOR_CORE, on_core, running
from bench_fanout import alternate, report
from fanout_load import Shape, warm_up
from surroundings import describe, keep

HERE = Path(__file__).resolve().parent
PEER = HERE / "brokers_peer.py"
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
    seen = []
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
            f"worst {one['max_ms']:.1f} ms, {one['cpu_share']:.0%} of a core",
            flush=True,
        )
    return {"processes": count, "expected": share, "seen": seen}


def fan_out(url: str, args: argparse.Namespace) -> dict[str, object]:
    """Measure local fan-out through a broker of the process, and through Redis."""
    names, shape = ("local", "redis"), Shape.parse(args.shape)
    commands = (SERVER, (*SERVER, "--redis", url))
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(running(name, command))
            for name, command in zip(names, commands, strict=True)
        ]
        stack.enter_context(on_core(GENERATOR_CORE))
        with running("local", SERVER) as twin:
            pair = alternate((servers[0], twin), shape, args.fan_out_seconds, args.rounds)
        print("A/A, without Redis against itself:")
        itself = report(shape, ("local", "local'"), pair, 1)
        print("A/B, with Redis against without:")
        samples = alternate(servers, shape, args.fan_out_seconds, args.rounds)
        return {"a_a": itself, "a_b": report(shape, names, samples, 0)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", default="2,4", help="how many, comma-separated")
    parser.add_argument("--rate", type=int, default=5_000, help="messages a second, of all")
    parser.add_argument("--seconds", type=int, default=10, help="of publishing")
    parser.add_argument("--rooms", type=int, default=10)
    parser.add_argument("--octets", type=int, default=64, help="of each message")
    parser.add_argument("--shape", default="500/64x64", help="of fan-out, as in bench_fanout")
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
        if args.rounds:
            warm_up()
            found["fan_out"] = fan_out(url, args)
        return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    args = parse(argv)
    keep({**describe(__file__, argv or sys.argv[1:]), **run(args)}, args.output)


if __name__ == "__main__":
    main()
