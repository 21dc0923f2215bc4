"""Compiled handlers, as users write them."""

from collections.abc import Callable
from typing import TypeAlias

from triows import _kernels as kernels
from triows._engine import Octets
from triows._options import check_kind
from triows._reactor._handlers import check_plain

Function: TypeAlias = Callable[[Octets, int], int]


class CompiledHandler:
    """A handler that turns call without entering Python; made by `compiled`.

    Calling it calls the plain function, for tests.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self._address = 0

    def __call__(self, payload: Octets, opcode: int) -> int:
        """Call the function as it was written."""
        return self.function(payload, opcode)

    def resolve(self) -> int:
        """Compile the function, unless that was done, and return its address.

        Raises:
            numba.core.errors.NumbaError: it cannot be compiled; the error says what of it.
        """
        if not self._address:
            self._address = kernels.resolve_handler(self.function)
        return self._address


def compiled(function: Function) -> CompiledHandler:
    """Make a handler of a function that numba can compile.

    It is called for each whole message, in the thread of the reactor and without the
    GIL, and holds up every other connection while it runs.

    Args:
        function: takes the payload, a writable ``uint8`` array of any length that is valid
            until it returns, and the opcode, 1 for text or 2 for binary. It returns a
            `Response`: ECHO sends back what it left in the payload, DISCARD nothing,
            CLOSE closes with 1000, DELIVER hands the message to the handler in Python, PUBLISH
            to the reactor's channel. If it raises, or returns anything else, its connection
            closes with 1011, and no other.

    Raises:
        TypeError: it is no function, or an asynchronous one.

    Compiled when a reactor first uses it, before that listens; not cached.
    """
    check_kind("function", function, Callable)
    check_plain(function, "function")
    return CompiledHandler(function)
