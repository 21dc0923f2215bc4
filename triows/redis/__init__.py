"""Rooms over several machines: a `triows.Broker` on Redis (the extra ``triows[redis]``).

    async with open_redis_broker("redis://127.0.0.1:6379") as broker:
        rooms = triows.Rooms(history=100, broker=broker)

**Streams or pub/sub?** Both, for what each is good at. A room's log is a *stream*: it is bounded,
survives a restart of Redis, and can be read from any number. What is new goes round by
*pub/sub*: one connection of each process hears of all its rooms, and a message costs Redis one
write to each process that has the room open. Streams alone would have each process wait for
all its rooms in one ``XREAD``, whose list of keys is sent again, and searched again, for every
message; pub/sub alone forgets what was said while a connection was down.

**A publish** is a script, so that it happens as a whole or not at all: it gives out the next
numbers of the room, appends to its log, and publishes numbers and items together. All that was
published here while the last call was under way goes in the next one, as one batch. Every
batch has a number of its own, the last of which Redis keeps for each process: one that has to
be sent again after a broken connection, no one knowing whether it arrived, is not applied twice.

**What a process misses**, it reads from the log: when it opens a room, when a number is not the
next one, after a broken connection. What the log no longer has is a gap, which subscribers are
told of by `triows.Lagged`.

**While Redis is away** a room goes on within the process, under a numbering of its own, and
what is published is kept, within bounds, to be published when Redis is back. What does not fit
is dropped, oldest first; then its numbers are given out all the same, so that others see a gap
where it would have been.

**What Redis has lost** no one can tell by the numbers, since it gives them out again. One that
was started anew, and does not write to its disk before it answers, therefore begins another epoch,
and subscribers are told of a gap, the size of which no one knows: ``Lagged(1)``.

`_scripts` is what runs in Redis, `_wire` the octets, `_room` and `_echoes` the order of one room,
`_outbox` what waits to be published, `_connection` a connection to one Redis, `_node` what comes of
having one, or none, `_broker` all of them together.
"""

try:
    from triows.redis._broker import RedisBroker as RedisBroker
    from triows.redis._broker import RedisStatistics as RedisStatistics
    from triows.redis._broker import open_redis_broker as open_redis_broker
except ModuleNotFoundError as error:
    if error.name != "coredis":
        raise
    raise ModuleNotFoundError(
        "rooms over Redis need coredis: pip install 'triows[redis]'", name=error.name
    ) from error

__all__ = ["RedisBroker", "RedisStatistics", "open_redis_broker"]
