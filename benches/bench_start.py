"""What it costs to import triows, to compile its kernels, and to start a server.

    python benches/bench_start.py --output benches/results/start.json

Imports and starts are timed in fresh interpreters with warm file caches; medians. The CPU time
is the process's own (user and system) and holds on a machine that others use too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from surroundings import describe, keep

DEPENDENCIES = ("trio", "numba", "numpy", "attrs", "httptools")
IMPORT = """
import os, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
octets, seconds = resident(), time.perf_counter()
import {names}
print(time.perf_counter() - seconds, resident() - octets)
"""
ROOT = Path(__file__).resolve().parents[1]


def run(*args: str, **environment: str) -> tuple[float, float, str]:
    """Run Python; returns the seconds that it took, those of its CPU, and its output."""
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *args], env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    return time.perf_counter() - started, cpu, done.stdout


def cost_of_import(names: str, rounds: int) -> dict[str, float]:
    """Measure an import statement."""
    rows = [run("-c", IMPORT.format(names=names))[2].split() for _ in range(rounds)]
    return {
        "milliseconds": 1000 * statistics.median(float(row[0]) for row in rows),
        "resident_mib": statistics.median(int(row[1]) for row in rows) / 2**20,
    }


def time_to_ready(cache: str) -> float:
    """Start the echo server; returns the seconds to its READY line."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "triows", "echo"], stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TRIOWS_CACHE_DIR": cache},
    )  # fmt: skip
    process.stdout.readline()
    seconds = time.perf_counter() - started
    process.terminate()
    process.communicate()
    return seconds


def measure(rounds: int) -> dict[str, object]:
    """Measure everything; prints as it goes."""
    figures: dict[str, object] = {}
    everything = "trio, numba, attrs, httptools"
    for names in (*DEPENDENCIES, everything, "triows"):
        figures[f"import {names}"] = row = cost_of_import(names, rounds)
        print(f"import {names:<32} {row['milliseconds']:7.1f} ms {row['resident_mib']:6.1f} MiB")
    with tempfile.TemporaryDirectory() as cache:
        wall, cpu, table = run("-m", "triows", "warmup", TRIOWS_CACHE_DIR=cache)
        figures["cold warmup"] = {"seconds": wall, "cpu_seconds": cpu, "table": table.splitlines()}
        print(f"cold triows warmup {wall:.2f} s, {cpu:.2f} s of CPU")
        wall, cpu, _ = run("-m", "triows", "warmup", TRIOWS_CACHE_DIR=cache)
        figures["warm warmup"] = {"seconds": wall, "cpu_seconds": cpu}
        print(f"warm triows warmup {wall:.2f} s, {cpu:.2f} s of CPU")
        starts = sorted(time_to_ready(cache) for _ in range(rounds))
        figures["seconds to READY, warm cache"] = starts
        print(f"to READY, warm     {statistics.median(starts):.2f} s ({starts[0]:.2f} at best)")
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a JSON file, say below benches/results/")
    args = parser.parse_args(argv)
    results = {**describe(__file__, argv or sys.argv[1:]), "figures": measure(args.rounds)}
    keep(results, args.output)


if __name__ == "__main__":
    main()
