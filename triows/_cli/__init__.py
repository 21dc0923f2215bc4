"""The command line: ``triows echo``, ``fanout``, ``connect``, ``warmup``, ``--version``.

It reads arguments and turns what goes wrong into one line and an exit status;
the work is done below. Exit status: 0 fine, 1 it did not work, 2 it was not
understood or does not exist yet, 128 + N ended by signal N.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from triows._cli import _connect, _echo, _fanout, _warmup
from triows._version import __version__


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; each command's ``run`` takes the parsed arguments, returns the status."""
    parser = _Parser(prog="triows", description="WebSockets for Trio.")
    parser.add_argument("--version", action="version", version=f"triows {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _echo.add_command(commands)
    _fanout.add_command(commands)
    _connect.add_command(commands)
    _warmup.add_command(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments without the program's name; those of the process by default.

    Returns:
        The exit status.

    Raises:
        SystemExit: the arguments were not understood, or asked for help or the version.
    """
    _open_standard_files()
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        print("triows: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return status


def _open_standard_files() -> None:
    """Put nothing where a standard file is closed: else another file would have its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
