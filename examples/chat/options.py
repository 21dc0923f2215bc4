"""What the chat can be told when it is started."""

import argparse
import math
from collections.abc import Callable


def read_options(description: str) -> argparse.Namespace:
    """Read the command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_number(0, 65_535), default=8765, help="0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--history", type=_number(0), default=200, help="messages shown (%(default)s)"
    )
    parser.add_argument(
        "--max-clients", type=_number(1), default=10_000, help="at the same time (%(default)s)"
    )
    parser.add_argument(
        "--driver", default="auto", choices=("auto", "reactor", "stream"), help="(%(default)s)"
    )
    parser.add_argument("--redis", metavar="URL", nargs="+", help="be one chat with all on these")
    return parser.parse_args()


def reason_of(error: BaseException) -> str:
    """Say in a line what went wrong first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return getattr(error, "strerror", None) or str(error)


def _number(least: int, most: float = math.inf) -> Callable[[str], int]:
    def integer(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            range_ = f"{least} or more" if most == math.inf else f"in {least}..{most}"
            raise argparse.ArgumentTypeError(f"{number} is not {range_}")
        return number

    return integer
