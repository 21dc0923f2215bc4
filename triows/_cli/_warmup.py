"""``triows warmup``: compile the kernels now, so that no server has to."""

import argparse
from collections.abc import Iterator
from typing import Any

from triows._kernels import WarmUp, clear_cache, warm_up
from triows._warmup import TerminalProgress


def add_command(commands: Any) -> None:
    """Add ``warmup`` to the parser's commands."""
    parser = commands.add_parser(
        "warmup",
        help="compile the kernels into the cache",
        description="Compile the kernels, or load them from the cache, and say how long each took.",
    )
    parser.add_argument("--clear", action="store_true", help="empty the cache first")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Warm up and print the table; returns the exit status."""
    if args.clear:
        clear_cache()
    with TerminalProgress() as progress:
        done = warm_up(progress)
    for line in table(done):
        print(line)
    return 0


def table(done: WarmUp) -> Iterator[str]:
    """Yield the lines that say what *done* took."""
    if not done.is_compiled:
        yield "NUMBA_DISABLE_JIT is set: kernels run as plain Python, there is nothing to compile"
        return
    width = max(len("kernel"), *(len(kernel.name) for kernel in done.kernels))
    yield f"{'kernel':<{width}}  seconds  from"
    for kernel in done.kernels:
        source = "cache" if kernel.is_cached else "compiler"
        yield f"{kernel.name:<{width}}  {kernel.seconds:7.3f}  {source}"
    yield f"{'total':<{width}}  {done.seconds:7.3f}"
    yield f"cache: {done.directory or 'none, kernels live in memory only'}"
