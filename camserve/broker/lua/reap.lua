-- KEYS: prefix. ARGV: lease_ms, job_ttl_ms, failure of an expired job, bytes of the cache of results.
-- Closes queued jobs past their deadline and running ones past deadline + lease, whether or not a
-- worker serves the model; drops entries without an open job, and strikes empty lanes off the list
-- of those to look at, recent jobs that have passed away off theirs, and results that nobody can be
-- answered with any more off the cache's. Returns how many jobs it closed.
local prefix, lease_ms, ttl_ms, failure = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[3]
local closed, now = 0, now_ms()

local function look(lane, entry, id)
  local state, current, deadline_ms, cancel = unpack(redis.call(
    'HMGET', key(prefix, 'job', id), 'state', 'entry', 'deadline_ms', 'cancel'))
  if not OPEN[state] or current ~= entry then
    return remove(prefix, lane, entry)
  end
  local last_ms = tonumber(deadline_ms) + (state == 'running' and lease_ms or 0)
  if now >= last_ms then
    close(prefix, id, lane, entry, cancel and 'canceled' or 'expired', ttl_ms,
      not cancel and failure)
    closed = closed + 1
  end
end

for _, lane in ipairs(all_lanes(prefix)) do
  local stream, after = key(prefix, 'stream', lane), '-'
  while after do
    local entries = redis.call('XRANGE', stream, after, '+', 'COUNT', 500)
    for _, entry in ipairs(entries) do
      look(lane, entry[1], entry[2][2])
    end
    after = entries[500] and '(' .. entries[500][1]
  end
  if redis.call('XLEN', stream) == 0 then
    redis.call('SREM', prefix .. 'lanes', lane)
  end
end

-- Who reads the list begins at its new end, and may never come to them. Some of any place as well: by
-- the ids of a front end whose clock is ahead, what has passed away lies behind what is new.
local recent = prefix .. 'recent'
local function strike_off(ids)
  for _, id in ipairs(ids) do
    if redis.call('EXISTS', key(prefix, 'job', id)) == 0 then
      redis.call('ZREM', recent, id)
    end
  end
end
strike_off(redis.call('ZRANGE', recent, 0, 99))
strike_off(redis.call('ZRANDMEMBER', recent, 100))
trim(prefix, tonumber(ARGV[4]))
return closed
