"""What runs in Redis: each script as a whole or not at all. Refuses to know who calls it.

Keys, all behind a prefix: ``p:PROCESS`` is the number of the last batch of a process; ``r:ROOM``
a hash of the room's epoch ``e``, the life ``l`` that it is of, its last number ``n``, and the one
that it began behind ``b``; ``l:ROOM`` its log, a stream of bundles ``d`` of ``n`` items, whose
ids are ``NUMBER-0`` with that of their last item; ``c:ROOM`` its channel; ``m:ROOM`` who is there,
a sorted set by the time, in milliseconds, at which that is no longer so. The keys of a room are
made up here, which Redis Cluster does not allow: shard over independent nodes instead.

A *life* of Redis, in the hash ``life``, is over when it may have forgotten what it had answered:
when it was started anew, unless it writes to its disk before it answers. It would then give out
numbers that others have had already, for other items: so a new epoch begins.
"""

from typing import Final

BEGIN: Final = """
-- ARGV: prefix, Redis's name of this run of it, whether it is '1' that nothing was forgotten
-- since the run before, candidate for a life
local key = ARGV[1] .. 'life'
local known = redis.call('HMGET', key, 'run', 'l')
if known[1] == ARGV[2] then return 0 end
if known[1] and ARGV[3] == '1' then
  redis.call('HSET', key, 'run', ARGV[2])
else
  redis.call('HSET', key, 'run', ARGV[2], 'l', ARGV[4])
end
return 1
"""
"""Begin a new life if there is one; comes first on every connection."""

_EPOCH: Final = """
local life = redis.call('HGET', ARGV[1] .. 'life', 'l') or ''
local function epoch_of(state, log, candidate)
  local known = redis.call('HMGET', state, 'e', 'l')
  if known[1] and known[2] == life then return known[1] end
  if not known[1] then redis.call('DEL', log) end
  local number = redis.call('HINCRBY', state, 'n', 0)
  redis.call('HSET', state, 'e', candidate, 'l', life, 'b', string.format('%.0f', number))
  return candidate
end
"""

PUBLISH: Final = f"""{_EPOCH}
-- ARGV: prefix, candidate for an epoch, process, batch, log size, retention in seconds;
-- then for each room: its name, how many items were lost, how many follow, those as a bundle.
local prefix, retention = ARGV[1], ARGV[6]
local process = prefix .. 'p:' .. ARGV[3]
if tonumber(ARGV[4]) <= tonumber(redis.call('GET', process) or '0') then return 0 end
redis.call('SET', process, ARGV[4], 'EX', retention)
for i = 7, #ARGV, 4 do
  local room, bundle = ARGV[i], ARGV[i + 3]
  local lost, count = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local state, log = prefix .. 'r:' .. room, prefix .. 'l:' .. room
  local epoch = epoch_of(state, log, ARGV[2])
  local number = redis.call('HINCRBY', state, 'n', lost + count)
  redis.call('EXPIRE', state, retention)
  if count > 0 then
    local oldest = string.format('%.0f-0', math.max(number - tonumber(ARGV[5]) + 1, 0))
    local id = string.format('%.0f-0', number)
    redis.call('XADD', log, 'MINID', '=', oldest, id, 'n', count, 'd', bundle)
    redis.call('EXPIRE', log, retention)
    local said = epoch .. ' ' .. string.format('%.0f', number - count) .. '\\n' .. bundle
    redis.call('PUBLISH', prefix .. 'c:' .. room, said)
  end
end
return 1
"""
"""Publish a batch; returns 1, or 0 if it had been before."""

READ: Final = f"""{_EPOCH}
-- ARGV: prefix, candidate for an epoch, room, the epoch and number known, history, octets that
-- are enough, retention
local state, log = ARGV[1] .. 'r:' .. ARGV[3], ARGV[1] .. 'l:' .. ARGV[3]
local epoch = epoch_of(state, log, ARGV[2])
local number, before = redis.call('HINCRBY', state, 'n', 0), redis.call('HGET', state, 'b')
redis.call('EXPIRE', state, ARGV[8])
redis.call('EXPIRE', log, ARGV[8])
local found, octets, items = {{}}, 0, 0
local function take(entries)
  for _, entry in ipairs(entries) do
    found[#found + 1] = {{entry[1], entry[2][4] or ''}}
    octets, items = octets + #(entry[2][4] or ''), items + (tonumber(entry[2][2]) or 1)
  end
  return #entries == 10 and '(' .. entries[10][1]
end
local ordered, first, last, step = {{}}, 1, 0, 1
if epoch == ARGV[4] then
  local from = string.format('%.0f-0', tonumber(ARGV[5]) + 1)
  while from and octets < tonumber(ARGV[7]) do
    from = take(redis.call('XRANGE', log, from, '+', 'COUNT', 10))
  end
  last = #found
else
  local to = '+'
  while to and items < tonumber(ARGV[6]) do
    to = take(redis.call('XREVRANGE', log, to, '-', 'COUNT', 10))
  end
  first, last, step = #found, 1, -1
end
for i = first, last, step do
  ordered[#ordered + 1] = found[i][1]
  ordered[#ordered + 1] = found[i][2]
end
return {{epoch, number, tonumber(before), ordered}}
"""
"""Read a room's epoch and last number, and what its log has behind the number known; where the
epoch known is another, the end of it, at least as much as the history. Returns [epoch, number, the
number that this epoch began behind, [id, bundle, id, bundle, ...]]."""

ANNOUNCE: Final = """
-- ARGV: prefix, process, milliseconds for which it holds; then pairs of room and member
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
for i = 4, #ARGV, 2 do
  local key = ARGV[1] .. 'm:' .. ARGV[i]
  redis.call('ZADD', key, string.format('%.0f', till), ARGV[2] .. ARGV[i + 1])
  redis.call('PEXPIRE', key, ARGV[3])
end
return 1
"""
"""Say of members that this process (32 hexadecimal digits) has them there, for a time."""

MEMBERS: Final = """
-- ARGV: prefix, room
local key, found, known = ARGV[1] .. 'm:' .. ARGV[2], {}, {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
for _, one in ipairs(redis.call('ZRANGE', key, 0, -1)) do
  local member = string.sub(one, 33)
  if not known[member] then
    known[member] = true
    found[#found + 1] = member
  end
end
return found
"""
"""Who is there: a list of members, each once, whichever processes have said so."""

TAKE_BACK: Final = """
-- ARGV: prefix, process, room, member
return redis.call('ZREM', ARGV[1] .. 'm:' .. ARGV[3], ARGV[2] .. ARGV[4])
"""
"""Say of a member that this process has it there no more."""

ALL: Final = (BEGIN, PUBLISH, READ, ANNOUNCE, MEMBERS, TAKE_BACK)
