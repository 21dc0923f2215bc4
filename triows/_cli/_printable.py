"""What may be written to a terminal: text of others, made harmless."""

import os
import unicodedata


def printable(text: str) -> str:
    """Escape what could do more to a terminal than show a character; newlines stay."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else _escape(one) for one in text)


def width(text: str) -> int:
    """Count the cells that printable *text* takes on a terminal."""
    return sum(
        0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1
        for one in text
    )


def write_all(descriptor: int, octets: bytes) -> None:
    """Write all of *octets*, waiting as long as it takes."""
    while octets:
        octets = octets[os.write(descriptor, octets) :]


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
