"""Numbers as the command line takes them."""

import argparse


def integer(text: str) -> int:
    """Read a number that is whole."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!a} is not a whole number") from None


def size(text: str) -> int:
    """Read a number that is whole and not negative."""
    number = integer(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative")
    return number
