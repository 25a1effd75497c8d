-- KEYS: prefix. How the queue of one model is now.
-- Returns {for each rank {its name, open jobs, those that wait, age in ms of the oldest of these},
-- how many dead letters there are, the totals as fields and values, how many results are in the
-- cache, and their bytes}.
local prefix, now = KEYS[1], now_ms()
local of, ranks = {}, {}
for place, rank in ipairs(RANKS) do
  of[rank] = {rank, 0, 0, 0}
  ranks[place] = of[rank]
end
for _, lane in ipairs(all_lanes(prefix)) do
  local stream, found = key(prefix, 'stream', lane), of[string.match(lane, '^[^@]+')]
  local open_jobs = redis.call('XLEN', stream)
  if found and open_jobs > 0 then
    local pending = redis.pcall('XPENDING', stream, GROUP) -- an error is a missing group
    found[2] = found[2] + open_jobs
    found[3] = found[3] + open_jobs - (pending.err and 0 or pending[1])
    local head = waiting(stream, 1)[1]
    local created_ms = head and redis.call('HGET', key(prefix, 'job', head[2][2]), 'created_ms')
    if created_ms then
      found[4] = math.max(found[4], now - created_ms)
    end
  end
end
return {ranks, redis.call('ZCARD', prefix .. 'dead'), redis.call('HGETALL', prefix .. 'totals'),
  redis.call('ZCARD', prefix .. 'cached'),
  tonumber(redis.call('HGET', prefix .. 'cached-bytes', 'all') or 0)}
