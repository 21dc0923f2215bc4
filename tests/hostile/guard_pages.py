"""Run every public kernel on octets that lie flush against pages that may not be touched.

A script, for a process of its own: one octet too far ends it with SIGSEGV.
With ``--overrun`` it goes one octet too far, to show that this is noticed.
"""

import ctypes
import mmap
import sys

import numpy as np

from triows._kernels import (
    COLUMNS,
    EXPECT_MASK,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    STATE_SIZE,
    mask,
    read_header,
    scan,
    validate_utf8,
    write_header,
)

PAGE = mmap.PAGESIZE
PROT_NONE = 0
MAX_SIZE = 700

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded_page():
    """One page of octets between two that may be neither read nor written."""
    memory = mmap.mmap(-1, 3 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (address, address + 2 * PAGE):
        if libc.mprotect(guard, PAGE, PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, np.uint8, PAGE, PAGE)


def run(page, size):
    """Run the kernels on *size* octets at both ends of the page."""
    fields = np.zeros(7, np.int64)
    for octets in (page[:size], page[PAGE - size :]):
        mask(octets, 0, size, 0x1234_5678, size % 4)
        for text in (b"a", "漢".encode(), "😀".encode()):
            octets[:] = np.frombuffer((text * (size + 1))[:size], np.uint8)
            validate_utf8(octets, 0, size, 0)
        for header in (b"\x82\x05", b"\x82\x7e\x01\x00", b"\x82\xff" + bytes(5) + b"\x01abcdefg"):
            whole = np.frombuffer(header[:size], np.uint8)
            octets[: len(whole)] = whole
            read_header(octets, 0, size, fields)
        for key in (-1, 0xFFFF_FFFF):
            for payload_size, room in ((5, 2), (126, 4), (65_536, 10)):
                if size >= room + (4 if key >= 0 else 0):
                    write_header(octets, 0, 0x82, payload_size, key)


def run_scan(page, size):
    """Scan *size* octets of frames at both ends of the page, cut wherever the size has it."""
    frames = b"\x82\x85abcdhello" + b"\x01\x83wxyzabc" + b"\x89\x80keys" + b"\x80\xfe\x01\x00mask"
    content = (frames + bytes(256) + b"\x81\x9eABCD" + bytes(30)) * 3
    table = np.zeros((8, COLUMNS), np.int64)
    for octets in (page[:size], page[PAGE - size :]):
        for body in (content, b"\x88\x82\0\0\0\0\x03\xe8" + content):
            octets[:] = np.frombuffer(body[:size], np.uint8)
            state = np.zeros(STATE_SIZE, np.int64)
            state[EXPECT_MASK] = 1
            state[MAX_MESSAGE] = 2**20
            state[MAX_FRAGMENTS] = 2**16
            start = 0
            for _ in range(4):
                rows = scan(octets, start, size, state, table)
                start = int(table[rows, 0])


def main():
    """Run all sizes, or one octet too many."""
    page = guarded_page()
    for size in range(MAX_SIZE):
        run(page, size)
        run_scan(page, size)
    if "--overrun" in sys.argv:
        mask(page, 0, PAGE + 1, 0x1234_5678, 0)
    sys.stdout.write("untouched\n")


if __name__ == "__main__":
    main()
