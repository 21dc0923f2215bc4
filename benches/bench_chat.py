"""What a thousand chatters see of the chat broker: latency, losses, and its memory.

    python benches/bench_chat.py --output benches/results/chat.json

The broker, `examples/chat_broker.py`, has one core, those who chat the other. In rooms of 50,
each says 5 messages of 80 characters a second, at random moments; so the broker takes 5,000 a
second and delivers 250,000. The second run has ten more clients in one room that read nothing:
1% of all, and one in six of that room. Once the kernel's buffers are full, which takes 3 MB or
50 seconds, those that are programs are let go, and those that read lines stay and miss them. The
others should not notice either.

The latency is from the moment before `send` to that after `recv` in the generator, which
shares its core with nothing but takes its time too. The results have what share of a core each of
them took, and what others took meanwhile: where that is much, it is they who were measured.
Every chatter checks that it hears each message of each member of its room once and in order; any
that it does not ends the bench. Linux only.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np
from chat_drive import HEARD, REFUSED, SENT, WRONG
from chat_load import Chatters, enter, enter_as_person, is_let_go, percentile
from load import LoadError
from surroundings import describe, keep

BROKER = Path(__file__).resolve().parents[1] / "examples" / "chat_broker.py"
BROKER_CORE, GENERATOR_CORE = 0, 1
PAGE, TICK = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
SETTLE = 3.0  # seconds for everyone to come in
PATIENCE = 5.0  # seconds for the last messages
SMALL = 4_096  # octets of the receive buffers of those who do not read


@attrs.frozen
class Broker:
    """A running chat broker."""

    pid: int
    port: int

    def memory(self) -> int:
        """Return its resident octets."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def cpu(self) -> np.ndarray:
        """Return the seconds of CPU used: the broker's, this process's, and everyone's together."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        own = int(fields[11]) + int(fields[12])
        user, nice, system, _idle, _wait, *interrupts = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
        )
        everyone = user + nice + system + sum(interrupts)
        return np.array([own / TICK, time.process_time(), everyone / TICK])


@contextlib.contextmanager
def broker(driver: str) -> Iterator[Broker]:
    """Run the broker on its core."""
    command = [sys.executable, str(BROKER), "--port", "0", "--driver", driver]
    process = subprocess.Popen(
        ["taskset", "-c", str(BROKER_CORE), *command],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        yield Broker(process.pid, int(line.rpartition(":")[2]))
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def measure(args: argparse.Namespace, stalled: int) -> dict[str, object]:
    """Have everyone talk, with so many in the first room who do not read."""
    with broker(args.driver) as server, contextlib.ExitStack() as stack:
        chatters = Chatters("127.0.0.1", server.port, args.people, args.room, args.rate)
        stack.callback(chatters.close)
        deaf = stall(server.port, stalled)
        for sock in deaf:
            stack.callback(sock.close)
        chatters.talk(SETTLE)
        chatters.plan(args.warm_up)
        chatters.talk(
            args.warm_up + PATIENCE, args.people * int(args.warm_up * args.rate) * args.room
        )
        chatters.forget()
        memory = [server.memory()]
        cpu, began = server.cpu(), time.monotonic()
        chatters.plan(args.seconds)
        for _ in range(args.seconds):
            chatters.talk(1.0)
            memory.append(server.memory())
        shares = (server.cpu() - cpu) / (time.monotonic() - began)
        wanted = args.people * int(args.seconds * args.rate) * args.room
        chatters.talk(PATIENCE, wanted)
        let_go = [is_let_go(sock) for sock in deaf]
        return {**results(chatters, memory, shares, wanted), "let_go": sum(let_go)}


def stall(port: int, count: int) -> list[socket.socket]:
    """Connect so many to the first room who read nothing; every other one is a person."""
    host, room = "127.0.0.1", "room-000"
    return [
        enter_as_person(host, port, room, SMALL)
        if n % 2
        else enter(host, port, f"deaf-{n}", room, SMALL)
        for n in range(count)
    ]


def results(
    chatters: Chatters, memory: list[int], shares: np.ndarray, wanted: int
) -> dict[str, object]:
    """Put the figures together.

    Raises:
        LoadError: a message was lost, doubled, out of order or delivered to the wrong room.
    """
    counts = chatters.counts.tolist()
    if counts[WRONG] or counts[REFUSED] or counts[HEARD] != wanted:
        raise LoadError(f"{counts[WRONG]} wrong, {counts[HEARD]} heard of {wanted}: {counts}")
    first, others = chatters.histograms[0], chatters.histograms[1:].sum(axis=0)
    return {
        "said": counts[SENT],
        "heard": counts[HEARD],
        "lost": wanted - counts[HEARD],
        "latency_ms": {
            name: {f"p{p:g}": percentile(histogram, p) for p in (50, 90, 99, 99.9, 100)}
            for name, histogram in (
                ("all", first + others),
                ("first room", first),
                ("other rooms", others),
            )
        },
        "core_share": {
            "broker": round(shares[0], 3),
            "generator": round(shares[1], 3),
            "others": round(shares[2] - shares[0] - shares[1], 3),
        },
        "memory_mib": [round(octets / 2**20, 1) for octets in memory],
        "memory_growth_mib_a_minute": round(growth(memory) * 60 / 2**20, 2),
    }


def growth(memory: list[int]) -> float:
    """Return the slope of the memory over the second half of the run, in octets a second."""
    half = np.array(memory[len(memory) // 2 :], float)
    return float(np.polyfit(np.arange(len(half)), half, 1)[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=1_000)
    parser.add_argument("--room", type=int, default=50, help="people in a room (%(default)s)")
    parser.add_argument("--rate", type=float, default=5.0, help="messages a second of each")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--warm-up", type=float, default=10.0)
    parser.add_argument("--driver", default="reactor", choices=("auto", "reactor", "stream"))
    parser.add_argument("--output", type=Path, help="a JSON file, say below benches/results/")
    args = parser.parse_args(argv)
    os.sched_setaffinity(0, {GENERATOR_CORE})
    figures = {}
    for stalled in (0, max(1, args.people // 100)):
        figures[f"{stalled} stalled"] = figure = measure(args, stalled)
        print(f"{stalled} stalled: {figure}")
    keep({**describe(__file__, argv or sys.argv[1:]), "figures": figures}, args.output)


if __name__ == "__main__":
    main()
