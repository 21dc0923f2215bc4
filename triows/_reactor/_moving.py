"""Connections that move from one loop to another, with all that is theirs.

What a loop knows of a connection is its slot: where the scan stands, in mid-message perhaps,
and the blocks that hang on it. So a move is a copy of the slot; the blocks are libc's, and
no loop's own. What else there may be of a connection is in order before it goes: rows that
are not handled, sends that are not replayed.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import attrs
import numpy as np

from triows import _kernels as kernels
from triows._engine import PerMessageDeflate
from triows._kernels import slots as s
from triows._reactor._blocks import Block

Promote: TypeAlias = Callable[[Any], tuple[Any, Any]]
"""Makes the WebSocket that a `Connection` is to become, and its driver, a `Session`."""


@attrs.frozen
class Moved:
    """A connection that is in no loop."""

    row: Any
    """int64 (SLOT_SIZE,): a copy of the slot that it had."""
    deflate: PerMessageDeflate | None


_CARRY: Final = (s.CARRY, s.CARRY_SIZE)
_MESSAGE: Final = (s.MESSAGE, s.MESSAGE_STORED, s.MESSAGE_ROOM)
_QUEUE: Final = (s.QUEUE, s.QUEUE_START, s.QUEUE_SIZE, s.QUEUE_ROOM)
_BLOCKS: Final = (*_CARRY, *_MESSAGE, *_QUEUE)
_TIMES: Final = (s.MESSAGE_SINCE, s.CLOSE_SINCE)


def take_out(loop: Any, slot: int, deflate: PerMessageDeflate | None) -> Moved:
    """Take an open connection out of a loop, whose slot is then to be released."""
    row = loop._slots[slot]  # noqa: SLF001 - the loop's own affair
    words = loop._words  # noqa: SLF001
    moved = Moved(row.copy(), deflate)
    loop._epoll.unregister(int(row[s.DESCRIPTOR]))  # noqa: SLF001
    words[s.QUEUED] -= int(row[s.QUEUE_SIZE])
    words[s.INCOMPLETE] -= int(row[s.MESSAGE_STORED])
    words[s.CONNECTIONS] -= 1
    for column in (*_BLOCKS, s.SESSION):
        row[column] = 0
    row[s.DESCRIPTOR] = -1
    row[s.PHASE] = s.FREE
    row[s.GENERATION] = (int(row[s.GENERATION]) + 1) & 0x7FFF_FFFF  # of events under way
    return moved


def put_in(loop: Any, slot: int, moved: Moved) -> None:
    """Give a slot, just entered for a connection's descriptor, what the connection had."""
    row, words = loop._slots[slot], loop._words  # noqa: SLF001
    columns = np.array((*range(kernels.STATE_SIZE), *_BLOCKS, *_TIMES))
    row[columns] = moved.row[columns]
    words[s.QUEUED] += int(row[s.QUEUE_SIZE])
    words[s.INCOMPLETE] += int(row[s.MESSAGE_STORED])


def discard(moved: Moved) -> None:
    """Free what a connection had, whose descriptor has been closed."""
    for column in (s.CARRY, s.MESSAGE, s.QUEUE):
        if moved.row[column]:
            Block(int(moved.row[column]), 0, 0)  # freed with its last view: at once
