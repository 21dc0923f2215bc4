"""A plain model of a WebSocket's receiving end, written from RFC 6455 and for reading.

An oracle for the scan and for the engine: it is given everything that the peer
sent at once, goes through it frame by frame, and says what must come of it.
"""

from dataclasses import dataclass, field

from tests import naive
from tests.naive import RefusedError
from triows._engine import Closed, Failed, Message, Ponged
from triows._kernels import _faults

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def build_frame(opcode, payload=b"", *, fin=True, rsv=0, key=None):
    """One frame (RFC 6455 §5.2), masked if *key* is given."""
    first_octet = (0x80 if fin else 0) | rsv << 4 | opcode
    body = payload if key is None else naive.mask(payload, key)
    return naive.build_header(first_octet, len(payload), key) + body


def build_fragments(opcode, pieces, *, key=None):
    """One message in as many frames as there are pieces (RFC 6455 §5.4)."""
    last = len(pieces) - 1
    return [
        build_frame(0 if index else opcode, piece, fin=index == last, key=key)
        for index, piece in enumerate(pieces)
    ]


def parse_frames(octets):
    """Cut octets that an engine sent into (first octet, payload), keys taken off."""
    frames = []
    while octets:
        header = naive.parse_header(octets)
        payload = octets[header.size : header.size + header.payload_size]
        assert len(payload) == header.payload_size
        if header.key is not None:
            payload = naive.mask(payload, header.key)
        frames.append((octets[0], payload))
        octets = octets[header.size + header.payload_size :]
    return frames


@dataclass
class Reception:
    """What comes of everything that a peer sent.

    ``replies`` are (first octet, payload) of Pongs and of the Close.
    """

    is_masked: bool
    max_message: int = 2**20
    max_fragments: int = 65_536
    events: list = field(default_factory=list)
    replies: list = field(default_factory=list)
    opcode: int = 0
    message: bytes = b""
    fragments: int = 0

    def receive(self, octets):
        """Go through *octets*, from the first to the last; returns self."""
        try:
            while octets:
                octets = self._take_frame(octets)
        except RefusedError as refused:
            code, reason = _faults.FAULTS[getattr(_faults, refused.fault)]
            self.events.append(Failed(code, reason))
            self.replies.append((0x88, code.to_bytes(2, "big") + reason.encode()))
        return self

    def _take_frame(self, octets):
        header = naive.parse_header(octets)
        if isinstance(header, naive.Incomplete):
            return b""
        if (header.key is not None) != self.is_masked:
            raise RefusedError("NOT_MASKED" if self.is_masked else "MASKED")
        self._admit(header)
        stop = header.size + header.payload_size
        payload = octets[header.size : stop]
        if header.key is not None:
            payload = naive.mask(payload, header.key)
        is_whole = len(payload) == header.payload_size
        if header.opcode < 8:
            self._take_data(payload, is_last=header.fin and is_whole)
        elif is_whole and self._take_control(header.opcode, payload):
            return b""
        return octets[stop:]

    def _admit(self, header):
        """Check the frame against the message under way (RFC 6455 §5.2, §5.4)."""
        if header.opcode >= 8:
            if header.rsv:
                raise RefusedError("UNEXPECTED_RSV")
            return
        if header.opcode == 0 and not self.opcode:
            raise RefusedError("STRAY_CONTINUATION")
        if header.opcode != 0 and self.opcode:
            raise RefusedError("MESSAGE_INSIDE_MESSAGE")
        if header.rsv:
            raise RefusedError("UNEXPECTED_RSV")
        if not self.opcode:
            self.opcode, self.message, self.fragments = header.opcode, b"", 0
        if len(self.message) + header.payload_size > self.max_message:
            raise RefusedError("MESSAGE_TOO_BIG")
        self.fragments += 1
        if self.fragments > self.max_fragments:
            raise RefusedError("TOO_MANY_FRAGMENTS")

    def _take_data(self, payload, *, is_last):
        self.message += payload
        if self.opcode == TEXT:
            judgement = naive.judge_text(self.message)
            if judgement == "wrong" or (is_last and judgement == "unfinished"):
                raise RefusedError("INVALID_UTF8")
        if is_last:
            self._deliver(self.opcode, self.message)
            self.opcode = 0

    def _deliver(self, opcode, message):
        payload = message.decode() if opcode == TEXT else message
        self.events.append(Message(payload, len(message)))

    def _take_control(self, opcode, payload):
        """Answer a control frame; returns whether it was a Close."""
        if opcode == PING:
            self.replies.append((0x8A, payload))
        elif opcode == PONG:
            self.events.append(Ponged(payload))
        else:
            self.events.append(_read_close(payload))
            self.replies.append((0x88, payload))
        return opcode == CLOSE


def _read_close(payload):
    """Judge a Close's payload (RFC 6455 §5.5.1, §7.4)."""
    if not payload:
        return Closed(1005, "")
    if len(payload) == 1:
        raise RefusedError("SHORT_CLOSE")
    code = int.from_bytes(payload[:2], "big")
    if code not in {*range(1000, 1015), *range(3000, 5000)} - {1004, 1005, 1006}:
        raise RefusedError("BAD_CLOSE_CODE")
    if naive.judge_text(payload[2:]) != "whole":
        raise RefusedError("INVALID_UTF8_REASON")
    return Closed(code, payload[2:].decode())


@dataclass
class EmbeddedReception(Reception):
    """The same where a handler answers messages: its echoes are among the replies.

    ``answer`` takes payload and opcode and returns what is to be sent back, or None.
    """

    answer: object = None

    def _deliver(self, opcode, message):
        reply = self.answer(message, opcode)
        if reply is not None:
            self.replies.append((0x80 | opcode, reply))
