"""The system calls of the compiled turn, each behind one thin function.

They take arrays, offsets and sizes and answer with a count or with a negative
errno: a kernel has no exceptions to spare. Nothing here blocks but
`wait_events`, whatever mode a socket is in.

Compiled, they call libc without the GIL; interpreted, the same libc by way of
ctypes. A kernel looks them up in its own module, so that a test can put a script
in the place of any of them.

Memory that outlives a turn comes from libc too, as a *block*: a handle that is
an address to no one but this module, 0 for none.
"""

import ctypes
import errno
import platform
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from triows._kernels._libc import Octets
from triows._kernels._registry import JIT, kernel

Words = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]

# struct epoll_event is packed on x86-64 alone. As 32-bit words:
EVENT_WORDS: Final = 3 if platform.machine() in {"x86_64", "AMD64"} else 4
EVENT_MASK: Final = 0
EVENT_SLOT: Final = EVENT_WORDS - 2
EVENT_GENERATION: Final = EVENT_WORDS - 1

EPOLLIN: Final = 0x001
EPOLLOUT: Final = 0x004
EPOLLERR: Final = 0x008
EPOLLHUP: Final = 0x010
EPOLL_CTL_ADD: Final = 1
EPOLL_CTL_DEL: Final = 2
EPOLL_CTL_MOD: Final = 3

EAGAIN: Final = -errno.EAGAIN
EINTR: Final = -errno.EINTR

_ENOSYS: Final = -errno.ENOSYS

_EPOLL_PWAIT2: Final = 441  # by number, on every machine: C libraries came to know it late
_DONTWAIT: Final = 0x40
_NOSIGNAL: Final = 0x4000
_SHUT_WR: Final = 1
_MONOTONIC: Final = 1

_INT, _SIZE, _ADDRESS, _NOTHING = "int", "size", "address", "nothing"
_COMPILED: Final = {
    _INT: types.intc,
    _SIZE: types.intp,
    _ADDRESS: types.uintp,
    _NOTHING: types.void,
}
_INTERPRETED: Final = {
    _INT: ctypes.c_int,
    _SIZE: ctypes.c_ssize_t,
    _ADDRESS: ctypes.c_size_t,
    _NOTHING: None,
}


def _foreign(name: str, result: str, *arguments: str) -> Any:
    """Return libc's function *name*, for kernels in the mode that they run in."""
    if JIT:  # pragma: no cover - numba's side, out of coverage's sight
        return types.ExternalFunction(
            name, _COMPILED[result](*(_COMPILED[one] for one in arguments))
        )
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = _INTERPRETED[result]
    function.argtypes = [_INTERPRETED[one] for one in arguments]
    return lambda *values: function(*map(int, values))


_epoll_wait = _foreign("epoll_wait", _INT, _INT, _ADDRESS, _INT, _INT)
_syscall = _foreign("syscall", _SIZE, _SIZE, _SIZE, _SIZE, _SIZE, _SIZE, _SIZE, _SIZE)
_epoll_ctl = _foreign("epoll_ctl", _INT, _INT, _INT, _INT, _ADDRESS)
_close = _foreign("close", _INT, _INT)
_shutdown = _foreign("shutdown", _INT, _INT, _INT)
_getrandom = _foreign("getrandom", _SIZE, _ADDRESS, _SIZE, _INT)
_clock_gettime = _foreign("clock_gettime", _INT, _INT, _ADDRESS)
_realloc = _foreign("realloc", _ADDRESS, _ADDRESS, _SIZE)
_free = _foreign("free", _NOTHING, _ADDRESS)
_memmove = _foreign("memmove", _ADDRESS, _ADDRESS, _ADDRESS, _SIZE)


# numba runs this while it compiles, which it does not do where coverage is measured.
def _viewing(item: Any, item_size: int) -> Any:  # pragma: no cover
    """Make the intrinsic that views memory from elsewhere as an array of *item*."""
    view = types.Array(item, 1, "C")

    def typed(_context: Any, _handle: Any, _count: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            handle, count = arguments
            target = make_array(view)(context, builder)
            size = context.get_constant(types.intp, item_size)
            populate_array(
                target,
                data=builder.inttoptr(handle, target.data.type),
                shape=cgutils.pack_array(builder, [count]),
                strides=cgutils.pack_array(builder, [size]),
                itemsize=size,
                meminfo=None,  # libc's or NumPy's, not numba's
            )
            return target._getvalue()  # noqa: SLF001 - how numba's own code makes a struct

        return view(types.int64, types.int64), build

    return intrinsic(typed)


def _plain_block(handle: int, size: int) -> Octets:
    """The twin of `block`."""
    octets: Octets = np.ctypeslib.as_array((ctypes.c_uint8 * int(size)).from_address(int(handle)))
    return octets


def _plain_integers(address: int, count: int) -> Integers:
    """The twin of `integers`."""
    view: Integers = np.ctypeslib.as_array((ctypes.c_int64 * int(count)).from_address(int(address)))
    return view


block: Any = _viewing(types.uint8, 1) if JIT else _plain_block
"""block(handle, size): the first *size* octets of a block, as an array that borrows them."""

integers: Any = _viewing(types.int64, 8) if JIT else _plain_integers
"""integers(address, count): so many int64 that Python keeps, as an array that borrows them."""

if JIT:  # pragma: no cover - as above
    _errno_location = _foreign("__errno_location", _ADDRESS)
    _errnos: Any = _viewing(types.intc, 4)

    @kernel("int64()", inner=True)
    def last_error() -> int:
        """Return the errno of this thread's last system call."""
        code: Any = np.int64(_errnos(_errno_location(), 1)[0])
        return code
else:
    last_error = ctypes.get_errno


_RECVFROM, _SENDTO = {"x86_64": (45, 44), "aarch64": (207, 206)}.get(platform.machine(), (0, 0))

if JIT and _SENDTO:  # pragma: no cover - as above
    # By number: libc's own functions make every call a place where the thread may be cancelled,
    # which costs a hundredth of the smallest echo in a process of several threads.
    @kernel("int64(int64, int64, int64, int64)", inline=True)
    def _recv(descriptor: int, address: int, size: int, flags: int) -> int:
        result: int = _syscall(_RECVFROM, descriptor, address, size, flags, 0, 0)
        return result

    @kernel("int64(int64, int64, int64, int64)", inline=True)
    def _send(descriptor: int, address: int, size: int, flags: int) -> int:
        result: int = _syscall(_SENDTO, descriptor, address, size, flags, 0, 0)
        return result

else:
    _recv = _foreign("recv", _SIZE, _INT, _ADDRESS, _SIZE, _INT)
    _send = _foreign("send", _SIZE, _INT, _ADDRESS, _SIZE, _INT)


@kernel("int64(int64)", inline=True)
def outcome(result: int) -> int:
    """Return a system call's *result*, or the negative errno where it failed."""
    return result if result >= 0 else -last_error()


@kernel("int64(int64, uint8[::1], int64, int64)", inline=True)
def receive(descriptor: int, octets: Octets, start: int, size: int) -> int:
    """Receive without waiting (recv(2)).

    octets  uint8 (n,); octets[start:start + size] is written
    size    octets, > 0 and within the array; unchecked

    Returns the octets received, 0 at the end of the stream, or a negative errno.
    """
    address: Any = np.int64(octets.ctypes.data) + start
    return outcome(_recv(descriptor, address, size, _DONTWAIT))


@kernel("int64(int64, uint8[::1], int64, int64)", inline=True)
def send(descriptor: int, octets: Octets, start: int, size: int) -> int:
    """Send without waiting and without SIGPIPE (send(2)).

    octets  uint8 (n,); read only
    size    octets, > 0 and within the array; unchecked

    Returns the octets taken, or a negative errno.
    """
    address: Any = np.int64(octets.ctypes.data) + start
    return outcome(_send(descriptor, address, size, _DONTWAIT | _NOSIGNAL))


@kernel("int64(int64, int32[:,::1], int64, int64[::1])", inner=True)
def wait_events(epoll: int, events: Words, timeout: int, clock: Integers) -> int:
    """Wait for events (epoll_wait(2), epoll_pwait2(2)).

    events   int32 (m, EVENT_WORDS); is filled
    timeout  microseconds; 0 not to wait. Linux before 5.11 knows whole milliseconds only:
             there it does not wait for a part of one
    clock    int64 (2,): room for the call

    Returns how many rows were filled, or a negative errno.
    """
    address = np.int64(events.ctypes.data)
    if timeout % 1_000 != 0:
        clock[0] = timeout // 1_000_000
        clock[1] = timeout % 1_000_000 * 1_000
        time = np.int64(clock.ctypes.data)
        count = outcome(_syscall(_EPOLL_PWAIT2, epoll, address, len(events), time, 0, 8))
        if count != _ENOSYS:
            return count
    return outcome(_epoll_wait(epoll, address, len(events), timeout // 1_000))


@kernel("int64(int64, int64, int64, int64, int64, int64, int32[::1])")
def watch(
    epoll: int, action: int, descriptor: int, mask: int, slot: int, generation: int, event: Words
) -> int:
    """Add, change or remove what is reported of a descriptor (epoll_ctl(2)).

    slot, generation  what its events will carry, 0..2**31 - 1 each
    event             int32 (EVENT_WORDS,): room for the call

    Returns 0 or a negative errno.
    """
    event[EVENT_MASK] = mask
    event[EVENT_SLOT] = slot
    event[EVENT_GENERATION] = generation
    return outcome(_epoll_ctl(epoll, action, descriptor, np.int64(event.ctypes.data)))


@kernel("int64(int64)", inner=True)
def close(descriptor: int) -> int:
    """Close a descriptor; returns 0 or a negative errno, after which it is closed too."""
    return outcome(_close(descriptor))


@kernel("int64(int64)", inner=True)
def end_writing(descriptor: int) -> int:
    """Send a FIN behind what was sent (shutdown(2)); returns 0 or a negative errno."""
    return outcome(_shutdown(descriptor, _SHUT_WR))


@kernel("int64(int32[::1])", inner=True)
def random_key(event: Words) -> int:
    """Draw a mask key, 0..2**32 - 1, from the system's generator (RFC 6455 §5.3, §10.3).

    One call for each key: processes that share an ancestor share none of them.

    event  int32 (EVENT_WORDS,): room for the call

    Returns the key or a negative errno.
    """
    count = outcome(_getrandom(np.int64(event.ctypes.data), 4, 0))
    if count < 0:
        return count
    key: Any = np.int64(event[0]) & 0xFFFF_FFFF
    return key


@kernel("int64(int64[::1])", inline=True)
def now(clock: Integers) -> int:
    """Return the monotonic time in nanoseconds; *clock* is int64 (2,), room for the call."""
    _clock_gettime(_MONOTONIC, np.int64(clock.ctypes.data))
    time: Any = clock[0] * 1_000_000_000 + clock[1]
    return time


@kernel("int64(int64, int64)", inner=True)
def resize(handle: int, size: int) -> int:
    """Make a block *size* octets long, > 0, keeping what it holds (realloc(3)).

    handle  a block, or 0 for a new one

    Returns the block, which may have another handle, or 0: there is no memory, and the
    old block is as it was.
    """
    resized: Any = np.int64(_realloc(handle, size))
    return resized


@kernel("int64(int64)", inner=True)
def release(handle: int) -> int:
    """Free a block, or nothing for 0; returns 0, the handle of none."""
    _free(handle)
    return 0


@kernel("void(uint8[::1], int64, uint8[::1], int64, int64)", inner=True)
def move(target: Octets, start: int, source: Octets, source_start: int, size: int) -> None:
    """Copy *size* octets, which may overlap (memmove(3)); offsets are unchecked."""
    _memmove(
        np.int64(target.ctypes.data) + start, np.int64(source.ctypes.data) + source_start, size
    )
