"""What Redis must do in one step, as scripts. Text alone; ``redis_streams`` runs them and knows what they answer.

Who may read a partition is a string with expiry, its lease. Every script that reads or settles looks at it first, so
that a member which was stopped for a while and goes on without knowing of it takes nothing and settles nothing.
"""

from __future__ import annotations

from typing import Final

JOIN: Final = """
-- KEYS: the hash of groups, then streams. ARGV: the group, where it begins, 1 to begin so even if it is known.
-- Makes the group on each stream. A stream that a known group meets later is read from its beginning.
local new = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 1 or ARGV[3] == '1'
for at = 2, #KEYS do
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[at], ARGV[1], new and ARGV[2] or '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') and not string.find(made.err, 'WRONGTYPE') then return made end
end
return 1
"""

MEET: Final = """
-- KEYS: the set of members, then leases. ARGV: me, the lease in ms, and what names of my past begin with.
-- Shows that this member lives, and renews its leases. Answers how many members there are, then 1 or 0 for each lease.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] ~= '' then
  for _, other in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if string.sub(other, 1, #ARGV[3]) == ARGV[3] then redis.call('ZREM', KEYS[1], other) end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
-- A full server takes no new member, yet lets those that read go on.
redis.pcall('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 86400000)
local answer = {redis.call('ZCARD', KEYS[1])}
for at = 2, #KEYS do
  local mine = redis.call('GET', KEYS[at]) == ARGV[1]
  if mine then redis.call('PEXPIRE', KEYS[at], ARGV[2]) end
  answer[#answer + 1] = mine and 1 or 0
end
return answer
"""

ACQUIRE: Final = """
-- KEYS: leases. ARGV: me, the lease in ms, how many are wanted, and what names of my past begin with ('' for none).
-- Takes leases that nobody holds, or a process of the same name that is gone. Answers 1 or 0 for each.
local left, answer = tonumber(ARGV[3]), {}
for at, lease in ipairs(KEYS) do
  local took = 0
  if left > 0 then
    local holder = redis.call('GET', lease)
    if not holder or (ARGV[4] ~= '' and string.sub(holder, 1, #ARGV[4]) == ARGV[4]) then
      if not redis.pcall('SET', lease, ARGV[1], 'PX', ARGV[2]).err then took, left = 1, left - 1 end
    end
  end
  answer[at] = took
end
return answer
"""

RELEASE: Final = """
-- KEYS: leases. ARGV: me. Gives back those that are mine.
for _, lease in ipairs(KEYS) do
  if redis.call('GET', lease) == ARGV[1] then redis.call('DEL', lease) end
end
return 1
"""

READ: Final = """
-- KEYS: stream and lease of each partition. ARGV: me, the lease in ms, the group, most entries in all, then for each
-- partition '>' for new entries or where to go on taking over what was read and never acknowledged.
-- Answers for each partition: what it is ('held', 'lost', or an error), where to go on, the entries, how often each was
-- delivered, and after which entry to wait for more.
local room, answer = tonumber(ARGV[4]), {}
for at = 1, #KEYS, 2 do
  local stream, lease, from = KEYS[at], KEYS[at + 1], ARGV[4 + (at + 1) / 2]
  local one = {'held', from, {}, {}, ''}
  if redis.call('GET', lease) ~= ARGV[1] then
    one[1] = 'lost'
  else
    redis.call('PEXPIRE', lease, ARGV[2])
    if room > 0 and from ~= '>' then
      local got = redis.pcall('XAUTOCLAIM', stream, ARGV[3], 'm', 0, from, 'COUNT', room)
      if got.err then
        one[1] = got.err
      else
        one[2] = got[1] == '0-0' and '>' or got[1]
        -- Redis 7 leaves out what was trimmed meanwhile; what is false here is of a server that does not.
        for _, entry in ipairs(got[2]) do
          if entry and entry[2] then one[3][#one[3] + 1] = entry end
        end
        if #one[3] > 0 then
          local pending = redis.call('XPENDING', stream, ARGV[3], one[3][1][1], one[3][#one[3]][1], #one[3])
          for number, row in ipairs(pending) do one[4][number] = row[4] end
        end
      end
    elseif room > 0 then
      local got = redis.pcall('XREADGROUP', 'GROUP', ARGV[3], 'm', 'COUNT', room, 'STREAMS', stream, '>')
      if got and got.err then
        one[1] = got.err
      elseif got then
        one[3] = got[1][2]
      else
        local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
        one[5] = last[1] and last[1][1] or '0-0'
      end
    end
    room = room - #one[3]
  end
  answer[#answer + 1] = one
end
return answer
"""

ACK: Final = """
-- KEYS: stream and lease of each partition. ARGV: me, the group, then for each its entries, joined by spaces.
-- Answers for each how many were acknowledged; -1 when the lease is lost.
local answer = {}
for at = 1, #KEYS, 2 do
  if redis.call('GET', KEYS[at + 1]) ~= ARGV[1] then
    answer[#answer + 1] = -1
  else
    local entries = {}
    for entry in string.gmatch(ARGV[2 + (at + 1) / 2], '%S+') do entries[#entries + 1] = entry end
    answer[#answer + 1] = redis.call('XACK', KEYS[at], ARGV[2], unpack(entries))
  end
end
return answer
"""

DEAD_LETTER: Final = """
-- KEYS: stream, lease and the group's dead stream. ARGV: me, the group, the entry, the most that the dead stream keeps,
-- then fields and values. Answers how many left the dead stream for it; -1 when the lease is lost.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return -1 end
redis.call('XADD', KEYS[3], '*', unpack(ARGV, 5))
redis.call('XACK', KEYS[1], ARGV[2], ARGV[3])
return redis.call('XTRIM', KEYS[3], 'MAXLEN', ARGV[4])
"""

SEEK: Final = """
-- KEYS: streams. ARGV: the group, and the entry after which it is to go on. Forgets what was read and not acknowledged.
for _, stream in ipairs(KEYS) do
  redis.pcall('XGROUP', 'DESTROY', stream, ARGV[1])
  redis.pcall('XGROUP', 'CREATE', stream, ARGV[1], ARGV[2], 'MKSTREAM')
end
return 1
"""

COUNT: Final = """
-- KEYS: a stream. ARGV: an entry. Answers how many of the next 1000 after it there are, and the last of them.
local found = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1000)
return {#found, found[#found] and found[#found][1] or ''}
"""

TRIM: Final = """
-- KEYS: a stream. ARGV: how many entries stay at least, how many at most, and how many one trim may take away.
-- The oldest go first. Past the first bound only those that every group has acknowledged; past the second any.
-- Answers how many went, then per group that lost some of them its name and their number. One script, so that nothing
-- is read or acknowledged in between.
local function parts(id)
  local time, count = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(time), tonumber(count)
end
local function before(one, other)
  local time, count = parts(one)
  local other_time, other_count = parts(other)
  return time < other_time or (time == other_time and count < other_count)
end
local length = redis.call('XLEN', KEYS[1])
local excess = math.min(length - tonumber(ARGV[1]), tonumber(ARGV[3]))
if excess <= 0 then return {0} end
local forced = math.min(length - tonumber(ARGV[2]), excess)
local groups = {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for at = 1, #info, 2 do group[info[at]] = info[at + 1] end
  if group['pending'] > 0 then group['oldest'] = redis.call('XPENDING', KEYS[1], group['name'])[2] end
  groups[#groups + 1] = group
end
local old = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess)
local going = 0
for at, entry in ipairs(old) do
  local wanted = false
  for _, group in ipairs(groups) do
    if before(group['last-delivered-id'], entry[1]) or (group['oldest'] and not before(entry[1], group['oldest'])) then
      wanted = true
    end
  end
  if wanted and at > forced then break end
  going = at
end
if going == 0 then return {0} end
local answer = {going}
for _, group in ipairs(groups) do
  local lost = 0
  for at = going, 1, -1 do
    if not before(group['last-delivered-id'], old[at][1]) then break end
    lost = lost + 1
  end
  if group['pending'] > 0 then
    lost = lost + #redis.call('XPENDING', KEYS[1], group['name'], old[1][1], old[going][1], going)
  end
  if lost > 0 then
    answer[#answer + 1] = group['name']
    answer[#answer + 1] = lost
  end
end
redis.call('XTRIM', KEYS[1], 'MAXLEN', length - going)
return answer
"""
