"""A nursery that does not wrap: one exception comes out as it was raised."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def unwrapped_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery; a group of one exception is replaced by that exception.

    Only where the tasks inside are triows' own: there the group would tell the
    caller of a nursery that is none of its business. A group that the body itself
    raised stays what it was, and so do several exceptions at once. The exception
    is the very object that was raised, and keeps its cause and context.
    """
    raised: BaseException | None = None
    lone: BaseException | None = None
    try:
        # Asked for, since a run may have been started without strict groups, and
        # then a group that the body raised would be taken apart.
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            try:
                yield nursery
            except BaseException as error:
                raised = error
                raise
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        lone = group.exceptions[0]
    if lone is None:
        return
    if raised is not None and _leaves(lone) == _leaves(raised):
        lone = raised  # of a group that passes, a nursery makes a copy
    raise lone  # out here, where the nursery's group does not become its context


def _leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in *error*, a group or a single one."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
