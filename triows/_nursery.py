"""A nursery that does not wrap: one exception comes out as it was raised."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def unwrapped_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery; a group of one exception is replaced by that exception.

    Only where the tasks inside are triows' own: there the group would tell the
    caller of a nursery that is none of its business. Two exceptions at once stay a
    group.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        lone = group
        while isinstance(lone, BaseExceptionGroup) and len(lone.exceptions) == 1:
            lone = lone.exceptions[0]
        if lone is group:
            raise
        raise lone from lone.__cause__
