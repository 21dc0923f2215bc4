"""What runs in Redis: each script as a whole or not at all. Refuses to know who calls it.

Keys, all behind a prefix: ``p:PROCESS`` is the number of the last batch of a process; ``r:ROOM``
a hash of the room's epoch ``e`` and its last number ``n``; ``l:ROOM`` its log, a stream whose ids
are ``NUMBER-0``; ``c:ROOM`` its channel; ``m:ROOM`` who is there, a sorted set by the time, in
seconds, at which that is no longer so. The keys of a room are made up here, which Redis Cluster
does not allow: shard over independent nodes instead.
"""

from typing import Final

PUBLISH: Final = """
-- ARGV: prefix, process, batch, candidate for an epoch, log size, retention in seconds;
-- then for each room: its name, how many items were lost, how many follow, those items.
local prefix, retention = ARGV[1], ARGV[6]
local process = prefix .. 'p:' .. ARGV[2]
if tonumber(ARGV[3]) <= tonumber(redis.call('GET', process) or '0') then return 0 end
redis.call('SET', process, ARGV[3], 'EX', retention)
local i = 7
while i <= #ARGV do
  local room, lost, count = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local state, log = prefix .. 'r:' .. room, prefix .. 'l:' .. room
  if redis.call('HSETNX', state, 'e', ARGV[4]) == 1 then redis.call('DEL', log) end
  local epoch = redis.call('HGET', state, 'e')
  local number = redis.call('HINCRBY', state, 'n', lost + count) - count
  local said = {epoch, ' ', string.format('%.0f', number), '\\n'}
  for j = 1, count do
    local item = ARGV[i + 2 + j]
    local id = string.format('%.0f-0', number + j)
    redis.call('XADD', log, 'MAXLEN', '=', ARGV[5], id, 'd', item)
    said[#said + 1] = struct.pack('>I4', #item)
    said[#said + 1] = item
  end
  redis.call('EXPIRE', state, retention)
  if count > 0 then
    redis.call('EXPIRE', log, retention)
    redis.call('PUBLISH', prefix .. 'c:' .. room, table.concat(said))
  end
  i = i + 3 + count
end
return 1
"""
"""Publish a batch; returns 1, or 0 if it had been before."""

READ: Final = """
-- ARGV: prefix, room, the epoch and number known, candidate for an epoch, history, page, retention
local state, log = ARGV[1] .. 'r:' .. ARGV[2], ARGV[1] .. 'l:' .. ARGV[2]
if redis.call('HSETNX', state, 'e', ARGV[5]) == 1 then redis.call('DEL', log) end
local epoch = redis.call('HGET', state, 'e')
local number = redis.call('HINCRBY', state, 'n', 0)
redis.call('EXPIRE', state, ARGV[8])
redis.call('EXPIRE', log, ARGV[8])
local entries, ordered = nil, {}
if epoch == ARGV[3] then
  local first = string.format('%.0f-0', tonumber(ARGV[4]) + 1)
  entries = redis.call('XRANGE', log, first, '+', 'COUNT', ARGV[7])
  for _, entry in ipairs(entries) do
    ordered[#ordered + 1] = entry[1]
    ordered[#ordered + 1] = entry[2][2]
  end
elseif tonumber(ARGV[6]) > 0 then
  entries = redis.call('XREVRANGE', log, '+', '-', 'COUNT', ARGV[6])
  for i = #entries, 1, -1 do
    ordered[#ordered + 1] = entries[i][1]
    ordered[#ordered + 1] = entries[i][2][2]
  end
end
return {epoch, number, ordered}
"""
"""Read a room's epoch and last number, and what its log has behind the number known; where the
epoch known is another, the end of it. Returns [epoch, number, [id, item, id, item, ...]]."""

ANNOUNCE: Final = """
-- ARGV: prefix, seconds for which it holds; then pairs of room and member
local now = tonumber(redis.call('TIME')[1])
for i = 3, #ARGV, 2 do
  local key = ARGV[1] .. 'm:' .. ARGV[i]
  redis.call('ZADD', key, now + tonumber(ARGV[2]), ARGV[i + 1])
  redis.call('EXPIRE', key, ARGV[2])
end
return 1
"""
"""Say of members that they are there, for a time."""

MEMBERS: Final = """
-- ARGV: prefix, room
local key = ARGV[1] .. 'm:' .. ARGV[2]
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
return redis.call('ZRANGE', key, 0, -1)
"""
"""Who is there: a list of members."""

TAKE_BACK: Final = """
-- ARGV: prefix, room, member
return redis.call('ZREM', ARGV[1] .. 'm:' .. ARGV[2], ARGV[3])
"""
"""Say of a member that it is there no more."""

ALL: Final = (PUBLISH, READ, ANNOUNCE, MEMBERS, TAKE_BACK)
