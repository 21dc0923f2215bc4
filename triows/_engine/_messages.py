"""Messages that arrive in more than one piece (RFC 6455 §5.4)."""

from triows._errors import ProtocolError
from triows._spec import CloseCode


class Budget:
    """The octets of unfinished messages that several connections may hold together.

    Args:
        limit: octets.
    """

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Claim *size* octets.

        Raises:
            ProtocolError: they are not to be had; nothing was claimed.
        """
        if size > self.limit - self.held:
            raise ProtocolError(CloseCode.TRY_AGAIN_LATER, "too many unfinished messages")
        self.held += size

    def give_back(self, size: int) -> None:
        """Return *size* octets that were claimed."""
        self.held -= size


class Assembly:
    """The message under way: the pieces that have come so far, joined.

    Args:
        budget: what its octets are counted against.
    """

    __slots__ = ("_budget", "_octets", "is_under_way")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._octets: bytearray | None = None
        self.is_under_way = False

    def __len__(self) -> int:
        return 0 if self._octets is None else len(self._octets)

    def add(self, piece: memoryview) -> None:
        """Append the next piece of a message.

        Raises:
            ProtocolError: the budget is used up; the piece was not added.
        """
        if self._octets is None:
            self._octets = bytearray()
            self.is_under_way = True
        self._budget.take(len(piece))
        self._octets += piece

    def take(self) -> bytes:
        """Return what has come of the message, which stays under way."""
        octets = bytes(self._octets or b"")
        self._budget.give_back(len(octets))
        self._octets = bytearray()
        return octets

    def finish(self) -> bytearray:
        """Return the whole message and be ready for the next."""
        assert self._octets is not None
        octets, self._octets = self._octets, None
        self.is_under_way = False
        self._budget.give_back(len(octets))
        return octets

    def discard(self) -> None:
        """Forget the message under way, if there is one."""
        if self.is_under_way:
            self.finish()
