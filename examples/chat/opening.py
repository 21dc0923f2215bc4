"""The chat's memory, alone or with that of other machines."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from chat.directory import SPARE, Directory


@asynccontextmanager
async def open_chat(
    history: int, max_clients: int, redis: Sequence[str] = ()
) -> AsyncIterator[Directory]:
    """Open a directory for the time of an ``async with`` block.

    Args:
        history: messages of each room that newcomers are given, 0 or more.
        max_clients: connections at once, 1 or more.
        redis: URLs of the Redis servers by which it is one with those on other machines.
    """
    if not redis:
        yield Directory(history, max_clients)
        return
    from chat.machines import open_machines  # noqa: PLC0415 - it needs triows[redis]

    async with open_machines(redis, history + SPARE) as machines:
        yield Directory(history, max_clients, machines)
