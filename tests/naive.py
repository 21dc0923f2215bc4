"""Plain models of what the kernels do, written from the RFCs and for reading.

They are oracles: slow, obvious, and with nothing in common with the kernels
but the specification. They work on bytes and raise what they refuse.
"""

from dataclasses import dataclass

CONTROL_OPCODES = {0x8, 0x9, 0xA}
OPCODES = {0x0, 0x1, 0x2} | CONTROL_OPCODES


class RefusedError(Exception):
    """Octets that RFC 6455 forbids, with the name of the fault."""

    @property
    def fault(self):
        """The fault's name in `triows._kernels._faults`."""
        return self.args[0]


@dataclass(frozen=True)
class Header:
    """A frame header's fields (RFC 6455 §5.2); ``key`` is None when unmasked."""

    fin: bool
    rsv: int
    opcode: int
    key: bytes | None
    size: int
    payload_size: int


@dataclass(frozen=True)
class Incomplete:
    """More octets are needed: at least so many, counted from the header's start."""

    at_least: int


def mask(payload, key, phase=0):
    """XOR each octet with key octet (phase + i) mod 4 (RFC 6455 §5.3)."""
    return bytes(octet ^ key[(phase + i) % 4] for i, octet in enumerate(payload))


def parse_header(octets):
    """Parse a frame header, or say what is wrong as early as it shows (RFC 6455 §5.2)."""
    if len(octets) >= 1:
        opcode = octets[0] % 16
        if opcode not in OPCODES:
            raise RefusedError("RESERVED_OPCODE")
        if opcode in CONTROL_OPCODES and octets[0] < 128:
            raise RefusedError("FRAGMENTED_CONTROL")
    if len(octets) < 2:
        return Incomplete(2)

    is_masked, short = divmod(octets[1], 128)
    if opcode in CONTROL_OPCODES and short > 125:
        raise RefusedError("LONG_CONTROL")
    extended_size = {126: 2, 127: 8}.get(short, 0)
    extended = octets[2 : 2 + extended_size]
    _judge_length(extended, extended_size)
    size = 2 + extended_size + (4 if is_masked else 0)
    if len(octets) < size:
        return Incomplete(size)
    return Header(
        fin=octets[0] >= 128,
        rsv=octets[0] // 16 % 8,
        opcode=opcode,
        key=octets[size - 4 : size] if is_masked else None,
        size=size,
        payload_size=int.from_bytes(extended, "big") if extended_size else short,
    )


def _judge_length(extended, size):
    """Refuse an extended length once no octets to come could make it right."""
    missing = size - len(extended)
    if size == 0 or len(extended) == 0:
        return
    lowest = int.from_bytes(extended + bytes(missing), "big")
    highest = int.from_bytes(extended + b"\xff" * missing, "big")
    if lowest >= 2**63:
        raise RefusedError("LENGTH_TOP_BIT")
    if highest < (126 if size == 2 else 2**16):
        raise RefusedError("LENGTH_NOT_MINIMAL")


def build_header(first_octet, payload_size, key=None):
    """Build a frame header with a minimal length (RFC 6455 §5.2)."""
    if payload_size <= 125:
        short, extended = payload_size, b""
    elif payload_size <= 0xFFFF:
        short, extended = 126, payload_size.to_bytes(2, "big")
    else:
        short, extended = 127, payload_size.to_bytes(8, "big")
    mask_bit = 0 if key is None else 128
    return bytes([first_octet, mask_bit + short]) + extended + (key or b"")


def judge_text(octets):
    """Judge *octets* as UTF-8 (RFC 3629): "whole", "unfinished" or "wrong".

    Python's own decoder says when nothing could make them valid any more.
    """
    try:
        octets.decode("utf-8")
    except UnicodeDecodeError as error:
        return "unfinished" if error.reason == "unexpected end of data" else "wrong"
    return "whole"
