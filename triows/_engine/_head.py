"""The head of an HTTP message, read piece by piece and within limits.

llhttp (by httptools) reads it, strictly; this module finds where the head ends, so that
llhttp never sees what follows it, and enforces the limits at the very octet that crosses one.
The outcome depends on the octets alone, never on how they were cut. Refuses to know what
a field means. RFC 9112 §2 to §5.
"""

from typing import Final, Protocol, TypeAlias

import httptools

from triows._options import Limits

Fields: TypeAlias = dict[bytes, list[bytes]]
"""The values of each field in order, by its name in lower case."""

_NOT_STARTED: Final = -1


class HeadFault(Exception):  # noqa: N818 - it never leaves the engine
    """A head that is malformed or too large.

    Args:
        status: what a server answers: 400, 405, 414, 431 or 505.
        reason: a sentence about it that holds nothing of the peer's.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class HeadFields:
    """What llhttp tells of a head: the values by lower-case name, and that it has ended.

    Apart from the reader because a parser holds on to its listener: were they one,
    every handshake would leave a cycle to the garbage collector.
    """

    def __init__(self) -> None:
        self.fields: Fields = {}
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a field; llhttp has cut the spaces before its value, not those behind."""
        if not self.is_complete:  # afterwards come trailers
            self.fields.setdefault(name.lower(), []).append(value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Note that llhttp has seen the blank line."""
        self.is_complete = True


class Parser(Protocol):
    """What is used of either of httptools' parsers."""

    def feed_data(self, data: bytes) -> None:
        """Parse the next octets."""

    def get_http_version(self) -> str:
        """Give the version as far as it is known."""


class HeadReader:
    """Takes octets until a head is whole, and keeps what follows it.

    Args:
        parser: a fresh parser that tells *heard* what it finds.
        heard: the parser's listener.
        limits: how long the start line and the fields may be, and how many the fields.

    Attributes:
        head: the whole head, blank line included; empty until it is whole.
        leftover: the octets behind it.
    """

    def __init__(self, parser: Parser, heard: HeadFields, limits: Limits) -> None:
        self.head = b""
        self.leftover = b""
        self._parser = parser
        self._heard = heard
        self._limits = limits
        self._buffer = bytearray()
        self._parsed = 0  # how far llhttp has read
        self._searched = 0  # before this there is no line end that is not known
        self._line = 0  # where the current line begins
        self._section = 0  # where the fields begin
        self._fields = _NOT_STARTED  # how many whole field lines there are
        self._end = 0  # where the head ends; 0: not yet known
        self._fault: HeadFault | None = None  # the limit that is crossed

    def receive(self, octets: bytes | bytearray | memoryview) -> bool:
        """Take the next octets; give True once the head is whole, and no more after that.

        Raises:
            HeadFault: the head is malformed, or crosses a limit.
        """
        self._buffer += octets
        readable = self._measure_whole() or self._measure()
        if readable > self._parsed:
            piece = bytes(self._buffer[self._parsed : readable])
            self._parsed = readable
            self._parse(piece)
        if self._fault is not None:
            raise self._fault
        if self._heard.is_complete != (self._end > 0):
            raise self._malformed()  # llhttp sees its end elsewhere
        if not self._end:
            return False
        head = bytes(self._buffer[: self._end])
        if not head.count(b"\r") == head.count(b"\n") == head.count(b"\r\n"):
            raise self._malformed()  # llhttp is as strict, unless it is made lenient one day
        self.head = head
        self.leftover = bytes(self._buffer[self._end :])
        self._buffer.clear()
        return True

    def start_line(self) -> bytes:
        """Give the whole head's first line, without its end."""
        return self.head[: self.head.index(b"\r\n")]

    def _parse(self, octets: bytes) -> None:
        try:
            self._parser.feed_data(octets)
        except httptools.HttpParserUpgrade:
            pass  # the head has ended, and asks for another protocol
        except httptools.HttpParserInvalidMethodError:
            # A word that is no method is answered as such; TLS and other noise is not.
            if self._buffer[:1].isalpha():
                raise HeadFault(405, "The method is unknown.") from None
            raise HeadFault(400, "This is not HTTP.") from None
        except httptools.HttpParserError:
            # Once the head has ended, only what would follow it can be wrong.
            if not self._heard.is_complete:
                raise self._malformed() from None

    def _malformed(self) -> HeadFault:
        if self._parser.get_http_version() in {"0.0", "0.9", "1.0", "1.1"}:
            return HeadFault(400, "The HTTP head is malformed.")
        return HeadFault(505, "The HTTP version is not supported.")

    def _measure_whole(self) -> int:
        """Give the end of a head that came whole and crosses no limit; otherwise 0.

        Saves the usual request the walk over its lines, without which it would end the same.
        """
        buffer, limits = self._buffer, self._limits
        blank = buffer.find(b"\r\n\r\n") if not self._searched else -1
        if blank < 0:
            return 0
        line = buffer.find(b"\r\n")
        size = blank - line  # of the fields: without one CRLF before them, with one behind
        if line > limits.max_request_line or size > limits.max_header:
            return 0
        if buffer.count(b"\r\n", line + 2, blank + 2) > limits.max_header_fields:
            return 0
        self._end = blank + 4
        return self._end

    def _measure(self) -> int:
        """Go over the lines not yet seen; give the offset up to which the parser may read.

        That is the head's end, the octet that crosses a limit (then `_fault` is set), or
        the end of what has arrived, whichever comes first.
        """
        buffer = self._buffer
        arrived = len(buffer)
        while True:
            end = buffer.find(b"\r\n", self._searched)
            is_whole = end >= 0
            if not is_whole:
                # A trailing CR may begin the line's end: it is not counted as content.
                end = arrived - buffer.endswith(b"\r", self._line)
            crossed = self._crossing(end, end + 2 if is_whole else arrived)
            if crossed is not None:
                return crossed
            if not is_whole:
                self._searched = max(self._line, arrived - 1)
                return arrived
            if end == self._line and self._fields != _NOT_STARTED:
                self._end = end + 2
                return self._end
            self._fields += 1
            self._line = self._searched = end + 2
            if self._fields == 0:
                self._section = self._line

    def _crossing(self, end: int, stop: int) -> int | None:
        """Give the offset at which the current line crosses a limit, if it does.

        Its content ends at *end*; what there is of the line and its CRLF, at *stop*.
        """
        limits = self._limits
        if self._fields == _NOT_STARTED:
            if end <= limits.max_request_line:
                return None
            self._fault = HeadFault(414, "The first line is too long.")
            return limits.max_request_line
        if end == self._line:
            return None  # the blank line, or nothing yet
        if self._fields >= limits.max_header_fields:
            self._fault = HeadFault(431, "There are too many header fields.")
            return self._line
        if stop - self._section > limits.max_header:
            self._fault = HeadFault(431, "The header fields are too large.")
            return self._section + limits.max_header
        return None
