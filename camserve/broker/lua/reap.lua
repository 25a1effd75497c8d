-- KEYS: prefix. ARGV: lease_ms, job_ttl_ms, failure of an expired job.
-- Closes queued jobs past their deadline and running ones past deadline + lease, whether or not a
-- worker serves the model; drops entries without an open job, and forgets consumers that hold
-- nothing and were not heard of for job_ttl_ms. Returns how many jobs it closed.
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

for _, lane in ipairs(LANES) do
  local stream, after = key(prefix, 'stream', lane), '-'
  while after do
    local entries = redis.call('XRANGE', stream, after, '+', 'COUNT', 500)
    for _, entry in ipairs(entries) do
      look(lane, entry[1], entry[2][2])
    end
    after = entries[500] and '(' .. entries[500][1]
  end
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  for _, consumer in ipairs(consumers.err and {} or consumers) do
    local name, pending, idle_ms = consumer[2], consumer[4], consumer[6]
    if pending == 0 and idle_ms > tonumber(ttl_ms) then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, name) -- one that lives comes back by itself
    end
  end
end
return closed
