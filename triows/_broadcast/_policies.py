"""What a subscriber and a channel agree on: policies, capacities, and what became of an item."""

import math
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import attrs
import trio
from attrs.validators import ge

from triows._engine import PreparedMessage
from triows._errors import TriowsError


@attrs.frozen(repr=False)
class Policy:
    """What becomes of an item for which a slow subscriber has no room.

    ``Policy.BLOCK``: publishers wait; nothing is lost. ``Policy.DROP_OLDEST``: the oldest
    items make room. ``Policy.DROP_NEWEST``: the item itself is dropped. ``Policy.LATEST``:
    an item takes the place of the one before it that was not received yet;
    ``Policy.LATEST(key)``, of the one with the same ``key(item)``. ``Policy.DISCONNECT``: the
    subscriber is cut off, a WebSocket with 1013.
    """

    name: str
    key: Callable[[Any], Hashable] | None = None

    BLOCK: ClassVar["Policy"]
    DROP_OLDEST: ClassVar["Policy"]
    DROP_NEWEST: ClassVar["Policy"]
    LATEST: ClassVar["Policy"]
    DISCONNECT: ClassVar["Policy"]

    def __call__(self, key: Callable[[Any], Hashable]) -> "Policy":
        """Return ``Policy.LATEST`` by key.

        Args:
            key: called once for each item and subscriber, while it is published.

        Raises:
            TypeError: this is another policy.
        """
        if self.name != Policy.LATEST.name:
            raise TypeError(f"{self!r} takes no key")
        return attrs.evolve(self, key=key)

    def __repr__(self) -> str:
        """Name it, and its key."""
        return f"Policy.{self.name}" + ("" if self.key is None else f"({self.key!r})")


for _name in ("BLOCK", "DROP_OLDEST", "DROP_NEWEST", "LATEST", "DISCONNECT"):
    setattr(Policy, _name, Policy(_name))


@attrs.frozen(kw_only=True)
class Capacity:
    """How much may wait for a subscriber to receive it.

    An item finds room if there is room for it in items and in octets, and also, whatever
    its size, if nothing waits. So a subscriber holds at most *items* items, and octets
    at most *octets* or one item.
    """

    items: int = attrs.field(default=65_536, validator=ge(1))
    octets: float = attrs.field(default=math.inf, validator=ge(1))
    """Of messages: ``str`` counts what it is in UTF-8, other values count nothing."""


@attrs.frozen
class Delivery:
    """What became of a published item: how many subscribers met each fate.

    Every subscriber there was is counted once.
    """

    delivered: int = 0
    """They will receive it, and have lost nothing by it."""
    dropped: int = 0
    """They have lost something: this item, or others that made room for it."""
    closed: int = 0
    """They were cut off for being too slow."""

    def __add__(self, other: "Delivery") -> "Delivery":
        """Count both."""
        return Delivery(
            self.delivered + other.delivered,
            self.dropped + other.dropped,
            self.closed + other.closed,
        )


class Lagged(TriowsError):  # noqa: N818 - as in other broadcast channels; no fault, but news
    """Items were dropped between the item received last and the next one.

    Raised in their place, once; afterwards receiving goes on.

    Args:
        count: how many, 1 or more.
    """

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} items were dropped before the next one")
        self.count = count


class TooSlow(TriowsError, trio.BrokenResourceError):  # noqa: N818 - as Trio's
    """The subscriber was cut off under ``Policy.DISCONNECT``; what came before was received."""

    def __init__(self) -> None:
        super().__init__("this subscriber was cut off: it did not receive in time")


def octets_of(item: object) -> int:
    """Return what an item counts for in octets."""
    if isinstance(item, str):
        return len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass"))
    if isinstance(item, bytes | bytearray | PreparedMessage):
        return len(item)
    return item.nbytes if isinstance(item, memoryview) else 0
