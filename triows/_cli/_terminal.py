"""A line of input at the bottom of a terminal, above which other lines appear.

The terminal itself shows nothing of what is typed: this module draws the line, so
that it can be taken away and drawn again when a message comes in between. It knows
nothing of WebSocket. POSIX only.
"""

import codecs
import os
import re
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from triows._cli._printable import printable, width, write_all

PROMPT = "> "
_ERASE = "\r\x1b[K"
_READ_SIZE = 4_096
_COLUMNS = 80  # of a terminal that does not know

# What a key that is no character sends (ECMA-48 §5.4, and the keypad's SS3).
_SPECIAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~]|[^\[O])")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")


class Terminal:
    """The terminal that a person sits at.

    Args:
        descriptor: of a terminal, for input and output.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._keys: deque[str] = deque()
        self._unfinished_key = ""
        self._typed = ""
        self._is_prompting = False

    @contextmanager
    def taken_over(self) -> Iterator[None]:
        """Draw what is typed, instead of the terminal; signals stay its business."""
        before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        try:
            yield
        finally:
            self._write(_ERASE)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def show(self, line: str) -> None:
        """Write a line above the one that is being typed."""
        self._write(f"{_ERASE}{line}\n")
        if self._is_prompting:
            self._draw()

    async def read_line(self) -> str | None:
        """Wait for a line to be entered; None for Ctrl-D on an empty one, or no terminal.

        Cancelling loses no key.
        """
        self._is_prompting = True
        self._draw()
        try:
            while True:
                if self._type():
                    return self._enter()
                self._draw()
                if self._keys or not await self._read_keys():
                    return None
        finally:
            self._is_prompting = False

    async def _read_keys(self) -> bool:
        """Wait for some keys; returns whether there may be more."""
        await trio.lowlevel.wait_readable(self._descriptor)
        try:
            octets = os.read(self._descriptor, _READ_SIZE)
        except OSError:  # EIO: the terminal has gone
            octets = b""
        self._keys.extend(self._without_special(self._decoder.decode(octets)))
        return bool(octets)

    def _type(self) -> bool:
        """Take the keys that have come, up to the end of a line or of the input."""
        while self._keys:
            key = self._keys[0]
            if key == "\x04" and not self._typed:
                return False
            self._keys.popleft()
            if key in "\r\n":
                return True
            self._edit(key)
        return False

    def _without_special(self, text: str) -> str:
        """Leave out the cursor keys and their like; one that is cut off waits for its rest."""
        text = _SPECIAL.sub("", self._unfinished_key + text)
        match = _UNFINISHED.search(text)
        self._unfinished_key = match[0] if match else ""
        return text.removesuffix(self._unfinished_key)

    def _edit(self, character: str) -> None:
        if character in "\b\x7f":
            self._typed = self._typed[:-1]
        elif character == "\x15":  # Ctrl-U
            self._typed = ""
        elif character == "\x17":  # Ctrl-W
            self._typed = self._typed.rstrip().rpartition(" ")[0]
            self._typed += " " if self._typed else ""
        elif character == "\t" or character.isprintable():
            self._typed += character

    def _enter(self) -> str:
        line, self._typed = self._typed, ""
        self._write(f"{_ERASE}{PROMPT}{printable(line)}\n")
        return line

    def _draw(self) -> None:
        """Draw as much of the line's end as fits."""
        columns = os.get_terminal_size(self._descriptor).columns or _COLUMNS
        room = columns - len(PROMPT) - 1
        shown = ""
        for character in reversed(self._typed):
            piece = printable(character)
            room -= width(piece)
            if room < 0:
                break
            shown = piece + shown
        self._write(f"{_ERASE}{PROMPT}{shown}")

    def _write(self, text: str) -> None:
        write_all(self._descriptor, text.encode(errors="replace"))
