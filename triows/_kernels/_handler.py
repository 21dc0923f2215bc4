"""Compiled handlers: a user's function, called by its address in the middle of a turn.

The turn is compiled once and knows no handler; a handler is resolved once to an
address, and a call costs some nanoseconds. What it raises stops at the call.

Interpreted, an address is the number under which the function was registered.
"""

from collections.abc import Callable
from typing import Any, Final

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from triows._kernels._libc import Octets
from triows._kernels._registry import JIT, kernel
from triows._kernels._system import block

# What a handler answers (`triows.Response`).
DISCARD: Final = 0
ECHO: Final = 1
CLOSE: Final = 2

RAISED: Final = -1
"""What `call_handler` returns for a handler that raised."""

CompiledHandler = Callable[[Octets, int], int]

_OCTETS: Final = types.Array(types.uint8, 1, "C")

_ENTRY: Final = types.int64(types.int64, types.int64, types.int64)
"""How it is called: with the payload's address and size, and the opcode, all of them in registers.

An array would be seven arguments, some of which go over the stack: a nanosecond for each call.
"""

_plain_handlers: Final[list[CompiledHandler]] = []


# numba runs this while it compiles, which it does not do where coverage is measured.
def _typed_call(
    _context: Any, _address: Any, _octets: Any, _opcode: Any
) -> Any:  # pragma: no cover
    """Make the intrinsic that calls a function of numba's by its address."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, octets, opcode = values
        payload = make_array(signature.args[1])(context, builder, octets)
        start = builder.ptrtoint(payload.data, opcode.type)
        (size,) = cgutils.unpack_tuple(builder, payload.shape, 1)
        convention = context.call_conv
        kind = convention.get_function_type(types.int64, _ENTRY.args)
        function = builder.inttoptr(address, kind.as_pointer())
        status, result = convention.call_function(
            builder, function, types.int64, _ENTRY.args, (start, size, opcode)
        )
        raised = context.get_constant(types.int64, RAISED)
        return builder.select(cgutils.as_bool_bit(builder, status.is_ok), result, raised)

    return types.int64(types.int64, _OCTETS, types.int64), build


def _plain_call(address: int, octets: Octets, opcode: int) -> int:
    """The twin of `call_handler`."""
    try:
        return int(_plain_handlers[address - 1](octets, opcode))
    except Exception:  # noqa: BLE001 - as compiled: that it raised is all that is told
        return RAISED


call_handler: Any = intrinsic(_typed_call) if JIT else _plain_call
"""call_handler(address, octets, opcode): what the handler returns, or RAISED."""


@kernel("int64(int64, uint8[::1], int64)")
def ask_handler(address: int, payload: Octets, opcode: int) -> int:
    """Call a compiled handler for a payload that no turn has at hand.

    address  of the handler
    payload  uint8 (n,), which the handler may change
    opcode   1 or 2

    Returns what the handler returns, or RAISED.
    """
    return call_handler(address, payload, opcode)


def resolve_handler(function: CompiledHandler) -> int:
    """Compile a handler and return its address, which is good for the life of the process.

    Args:
        function: takes a message's payload, a writable uint8 (n,) array, and its
            opcode; returns an integer. May be compiled by numba already.

    Raises:
        numba.core.errors.NumbaError: it cannot be compiled.
    """
    if JIT:
        return _compile(function)  # pragma: no cover - as below
    _plain_handlers.append(function)
    return len(_plain_handlers)


# Compiled code is out of coverage's sight.
def _compile(function: Any) -> int:  # pragma: no cover
    dispatcher = function if hasattr(function, "py_func") else numba.njit(function)

    @numba.njit(nogil=True)  # type: ignore[untyped-decorator]
    def handler(start: int, size: int, opcode: int) -> int:
        return types.int64(dispatcher(block(start, size), opcode))

    handler.compile(_ENTRY)
    result = handler.overloads[_ENTRY.args]
    _kept.append(handler)
    return int(result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


_kept: Final[list[Any]] = []
"""Compiled handlers: their code must not be collected."""
