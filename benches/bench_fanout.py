"""What a server spends on a delivery: one client of a room sends, all of it receive.

    python benches/bench_fanout.py --servers triows-compiled,picows,uws=/path/to/publish \
        --shapes 500/64x4 --seconds 2 --rounds 5 --output benches/results/some.json

A shape is clients/octets x window: so many messages are on their way that not every client
has received yet. ``N*`` before it makes N such rooms, for servers that have a room for each path,
and ``-N`` behind it adds N clients that join and never read. The figures are
deliveries a second, and the server's CPU time (user and system, all threads) for each.
Servers run on one core, the generator on another, and take turns, A B A B; before that the
first server is measured against itself. Every octet of every delivery is compared. Linux only.
"""

import argparse
import contextlib
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
from bench_echo import GENERATOR_CORE, Server, difference, on_core, running
from fanout_load import Rooms, Shape, warm_up
from surroundings import describe, keep

HERE = Path(__file__).resolve().parent
WARM_UP = 0.3  # seconds of traffic before the clock starts

FANOUT = (sys.executable, "-m", "triows", "fanout", "--port", "0")
COMMANDS: Mapping[str, Sequence[str]] = {
    "triows-compiled": (*FANOUT, "--api", "compiled"),
    "triows-inline": (*FANOUT, "--api", "compiled", "--threads", "0"),
    "triows-callback": (*FANOUT, "--api", "callback"),
    "triows-reactor": (*FANOUT, "--driver", "reactor"),
    "triows-batch": (*FANOUT, "--driver", "reactor", "--api", "batch"),
    "triows-stream": (*FANOUT, "--driver", "stream"),
    "picows": (sys.executable, str(HERE / "peers" / "picows_fanout.py")),
    "websockets": (sys.executable, str(HERE / "peers" / "websockets_fanout.py")),
}


@attrs.frozen(kw_only=True)
class Sample:
    """One measurement of one server."""

    rate: float
    """Deliveries a second."""
    cpu_us: float
    """Microseconds of server CPU per delivery."""
    p50_us: float
    p99_us: float
    """From a message's send to a delivery of it."""
    server_share: float
    """Of a core, while the generator ran."""
    server_wait: float
    """Share of that time in which the server could have run, but another program did."""
    generator_us: float
    """Microseconds of the generator's CPU per delivery."""


def measure(server: Server, shape: Shape, seconds: float) -> Sample:
    """Fill a room of *server* and return what its traffic cost."""
    with Rooms(server.host, server.port, shape) as room:
        room.run(WARM_UP)
        own, before, started = time.process_time(), server.cpu(), time.perf_counter()
        tally = room.run(seconds)
        elapsed = time.perf_counter() - started
        (spent, waited), own = difference(server.cpu(), before), time.process_time() - own
    return Sample(
        rate=tally.deliveries / tally.seconds,
        cpu_us=1e6 * spent / tally.deliveries,
        p50_us=tally.latency(50),
        p99_us=tally.latency(99),
        server_share=spent / elapsed,
        server_wait=waited / elapsed,
        generator_us=1e6 * own / tally.deliveries,
    )


def alternate(
    servers: Sequence[Server], shape: Shape, seconds: float, rounds: int
) -> list[list[Sample]]:
    """Measure the servers in turn, so many rounds; returns each server's samples in order."""
    samples: list[list[Sample]] = [[] for _ in servers]
    for _ in range(rounds):
        for server, taken in zip(servers, samples, strict=True):
            taken.append(measure(server, shape, seconds))
    return samples


def median(samples: Sequence[Sample]) -> Sample:
    """Return the median of each quantity by itself."""
    columns = zip(*(attrs.astuple(sample) for sample in samples), strict=True)
    names = [field.name for field in attrs.fields(Sample)]
    return Sample(**{n: statistics.median(c) for n, c in zip(names, columns, strict=True)})


def report(
    shape: Shape, names: Sequence[str], samples: Sequence[Sequence[Sample]], peer: int
) -> dict[str, object]:
    """Print one shape's table and return it for the results file."""
    rows = {}
    for name, taken in zip(names, samples, strict=True):
        middle = median(taken)
        pairs = list(zip(taken, samples[peer], strict=True))
        faster = statistics.median(a.rate / b.rate for a, b in pairs)
        dearer = statistics.median(a.cpu_us / b.cpu_us for a, b in pairs)
        print(
            f"{shape!s:>14}  {name:<16} {middle.rate:10,.0f}/s x{faster:5.2f}"
            f"  {middle.cpu_us:6.3f} µs x{dearer:5.2f}"
            f"  p50 {middle.p50_us:8.0f} µs  p99 {middle.p99_us:8.0f} µs"
            f"  server {middle.server_share:4.0%} + {middle.server_wait:3.0%} waiting"
            f"  generator {middle.generator_us:.3f} µs",
            flush=True,
        )
        rows[name] = {
            "median": attrs.asdict(middle),
            "rate_to_peer": faster,
            "cpu_to_peer": dearer,
            "samples": [attrs.asdict(sample) for sample in taken],
        }
    return {"shape": str(shape), "peer": names[peer], "servers": rows}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--servers",
        default="triows-compiled,triows-callback,triows-reactor,triows-stream,picows,websockets",
        help="names, comma-separated; name=COMMAND for others that print READY ws://H:P; "
        f"known: {', '.join(COMMANDS)}",
    )
    parser.add_argument("--peer", help="what ratios refer to (default: the last server)")
    parser.add_argument(
        "--shapes", default="500/64x4", help="[ROOMS*]clients/octets x window[-STALLED]"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON file, say below benches/results/")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> dict[str, object]:
    """Measure everything asked for."""
    commands: dict[str, Sequence[str]] = {}
    for item in args.servers.split(","):
        name, given, command = item.partition("=")
        commands[name] = shlex.split(command) if given else COMMANDS[name]
    names = list(commands)
    peer = names.index(args.peer) if args.peer else len(names) - 1
    shapes = [Shape.parse(text) for text in args.shapes.split(",")]
    warm_up()
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(n, c)) for n, c in commands.items()]
        stack.enter_context(on_core(GENERATOR_CORE))
        with running(names[0], commands[names[0]]) as twin:
            pair = alternate((servers[0], twin), shapes[0], args.seconds, args.rounds)
        print("A/A, the first server against itself:")
        itself = report(shapes[0], (names[0], f"{names[0]}'"), pair, 1)
        print("A/B:")
        tables = []
        for shape in shapes:
            samples = alternate(servers, shape, args.seconds, args.rounds)
            tables.append(report(shape, names, samples, peer))
    return {"a_a": itself, "shapes": tables}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    args = parse(argv)
    keep({**describe(__file__, argv or sys.argv[1:]), **run(args)}, args.output)


if __name__ == "__main__":
    main()
