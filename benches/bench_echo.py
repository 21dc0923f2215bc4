"""What a server spends on an echoed message, as a ratio to a peer in the same run.

    python benches/bench_echo.py --servers triows-compiled,triows-inline,picows \
        --shapes 100/20,10/16384 --seconds 2 --rounds 5 --output benches/results/some.json

The figure is the CPU time of the server process (user and system, all threads)
over the messages it echoed: it holds on a machine that others use too, where
throughput does not. Servers run on one core, the generator on another, and take
turns, A B A B; before that the first server is measured against itself, which
says how far two equal things are apart here (the A/A run). The generator checks
every octet; a wrong one ends the bench. Linux only.

A row counts only if the server was *saturated*: had it waited for the generator, its
cost would be that of a server half asleep, with fewer messages to a wake-up. And the
generator must be able to *outrun* it: it has a core to itself, so it can if a message
costs it less CPU time than it costs the server. Rows of which either is not so are
flagged, here and in the results.
"""

import argparse
import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import attrs
import numpy as np
from load import Load, Shape
from surroundings import describe, keep

HERE = Path(__file__).resolve().parent
ALL_SHAPES = "100/20,10/1024,10/16384,200/16384,500/16384,10/20x16,100/128x32"
SERVER_CORE, GENERATOR_CORE = 0, 1
START_TIMEOUT = 60.0  # seconds from starting a server to its READY line; a cold cache is slow
WARM_UP = 0.3  # seconds of traffic before the clock starts, on every connection
SATURATED = 0.9  # share of the time below which a server may have waited for the generator

COMPILED = (
    sys.executable, "-m", "triows", "echo", "--port", "0", "--api", "compiled", "--threads",
)  # fmt: skip
REACTOR = (
    sys.executable, "-m", "triows", "echo", "--port", "0", "--driver", "reactor", "--api",
)  # fmt: skip
COMMANDS: Mapping[str, Sequence[str]] = {
    "triows-auto": (sys.executable, "-m", "triows", "echo", "--port", "0"),
    "triows-stream": (
        sys.executable, "-m", "triows", "echo", "--port", "0", "--driver", "stream",
    ),
    "triows-callback": (*REACTOR, "callback"),
    "triows-channel": (*REACTOR, "channel"),
    "triows-batch": (*REACTOR, "batch"),
    "triows-compiled": (*COMPILED, "1"),
    "triows-inline": (*COMPILED, "0"),
    "engine-over-socket": (
        sys.executable, str(HERE.parent / "examples" / "engine_over_socket.py"), "0",
    ),
    "trio-floor": (sys.executable, str(HERE / "peers" / "trio_floor_echo.py")),
    "trio-websocket": (sys.executable, str(HERE / "peers" / "trio_websocket_echo.py")),
    "websockets-trio": (sys.executable, str(HERE / "peers" / "websockets_trio_echo.py")),
    "websockets-uvloop": (sys.executable, str(HERE / "peers" / "websockets_uvloop_echo.py")),
    "picows": (sys.executable, str(HERE / "peers" / "picows_echo.py")),
    "aiohttp": (sys.executable, str(HERE / "peers" / "aiohttp_echo.py")),
}  # fmt: skip


Times: TypeAlias = dict[str, np.ndarray]
"""Thread to the seconds that it ran, and waited for a core."""


@attrs.frozen(kw_only=True)
class Server:
    """A running echo server."""

    name: str
    pid: int
    host: str
    port: int

    def cpu(self) -> Times:
        """Return how long each of its threads ran so far, and waited for a core, in seconds."""
        return {
            task.name: np.array((task / "schedstat").read_text().split()[:2], np.int64) / 1e9
            for task in Path(f"/proc/{self.pid}/task").iterdir()
        }


def difference(after: Times, before: Times) -> np.ndarray:
    """Return how long a process ran and waited between two readings.

    Thread by thread: one that has ended since takes its past with it, and one that
    was idle all the time (Trio ends those after a while) would make the sum shrink.
    """
    return sum((times - before.get(thread, 0) for thread, times in after.items()), np.zeros(2))


@attrs.frozen(kw_only=True)
class Sample:
    """One measurement of one server."""

    cpu_us: float
    """Microseconds of server CPU per message."""
    rate: float
    """Messages a second."""
    p50_us: float
    p99_us: float
    """Latency from a batch's send to its last reply."""
    server_share: float
    """Of a core, while the generator ran."""
    server_wait: float
    """Share of that time in which the server could have run, but another program did."""
    generator_share: float
    generator_us: float
    """Microseconds of the generator's CPU per message."""

    @property
    def is_saturated(self) -> bool:
        """Whether the server always had something to do, so that it never waited for traffic."""
        return self.server_share + self.server_wait >= SATURATED

    @property
    def is_outrun(self) -> bool:
        """Whether the generator, on a core of its own, makes traffic faster than it is served."""
        return self.generator_us < self.cpu_us

    @property
    def doubts(self) -> list[str]:
        """Why the sample may say more of the generator than of the server."""
        reasons = {"not saturated": self.is_saturated, "not outrun": self.is_outrun}
        return [reason for reason, is_fine in reasons.items() if not is_fine]


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Pin this process, and what it starts, to *core* for the block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(name: str, command: Sequence[str]) -> Iterator[Server]:
    """Start a server on its core, wait for its READY line, and end it after the block."""
    with tempfile.TemporaryFile("w+") as errors:
        with on_core(SERVER_CORE):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            line = process.stdout.readline().strip()
            if not line.startswith("READY ws://"):
                errors.seek(0)
                sys.exit(f"{name} did not start: {line!r} {errors.read()[-2000:]}")
            host, _, port = line.removeprefix("READY ws://").rpartition(":")
            yield Server(name=name, pid=process.pid, host=host.strip("[]"), port=int(port))
        finally:
            process.terminate()
            process.stdout.close()
            try:
                process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(server: Server, load: Load, seconds: float) -> Sample:
    """Drive *server* with *load*, and return what it spent; closes the load."""
    with load:
        load.run(WARM_UP)
        own, before, started = time.process_time(), server.cpu(), time.perf_counter()
        tally = load.run(seconds)
        elapsed = time.perf_counter() - started
        (spent, waited), own = difference(server.cpu(), before), time.process_time() - own
    return Sample(
        cpu_us=1e6 * spent / tally.messages,
        rate=tally.messages / tally.seconds,
        p50_us=tally.latency(50),
        p99_us=tally.latency(99),
        server_share=spent / elapsed,
        server_wait=waited / elapsed,
        generator_share=own / elapsed,
        generator_us=1e6 * own / tally.messages,
    )


def alternate(
    servers: Sequence[Server], shape: Shape, seconds: float, rounds: int
) -> list[list[Sample]]:
    """Measure the servers in turn, so many rounds; returns each server's samples in order."""
    samples: list[list[Sample]] = [[] for _ in servers]
    for _ in range(rounds):
        for server, taken in zip(servers, samples, strict=True):
            taken.append(measure(server, Load(server.host, server.port, shape), seconds))
    return samples


def median(samples: Sequence[Sample]) -> Sample:
    """Return the median of each quantity by itself."""
    columns = zip(*(attrs.astuple(sample) for sample in samples), strict=True)
    names = [field.name for field in attrs.fields(Sample)]
    return Sample(**{n: statistics.median(c) for n, c in zip(names, columns, strict=True)})


def ratio(samples: Sequence[Sample], peer: Sequence[Sample]) -> float:
    """Return the median over the rounds of CPU per message, ours over the peer's."""
    return statistics.median(a.cpu_us / b.cpu_us for a, b in zip(samples, peer, strict=True))


def report(
    shape: Shape, names: Sequence[str], samples: Sequence[Sequence[Sample]], peer: int
) -> dict[str, object]:
    """Print one shape's table and return it for the results file."""
    rows = {}
    for name, taken in zip(names, samples, strict=True):
        middle = median(taken)
        against = ratio(taken, samples[peer])
        print(
            f"{shape!s:>12}  {name:<18} {middle.cpu_us:8.2f} µs/message  x{against:5.3f}"
            f"  {middle.rate:10,.0f}/s  p50 {middle.p50_us:9.1f} µs  p99 {middle.p99_us:9.1f} µs"
            f"  server {middle.server_share:4.0%} + {middle.server_wait:3.0%} waiting"
            f"  generator {middle.generator_share:4.0%} {middle.generator_us:.2f} µs"
            f"  {', '.join(middle.doubts)}".rstrip(),
            flush=True,
        )
        rows[name] = {
            "median": attrs.asdict(middle),
            "ratio_to_peer": against,
            "doubts": middle.doubts,
            "samples": [attrs.asdict(sample) for sample in taken],
        }
    return {"shape": str(shape), "peer": names[peer], "servers": rows}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--servers",
        default="triows-stream,trio-websocket",
        help="names, comma-separated; name=COMMAND for others that print READY ws://H:P; "
        f"known: {', '.join(COMMANDS)}",
    )
    parser.add_argument("--peer", help="what ratios refer to (default: the last server)")
    parser.add_argument("--shapes", default=ALL_SHAPES, help="connections/octets[xPIPELINED]")
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
