-- KEYS: prefix. ARGV: job_ttl_ms, then lanes.
-- Makes lanes that are missing, lets the others live on, and forgets consumers that hold nothing
-- and were not heard of for job_ttl_ms.
local ttl_ms = tonumber(ARGV[1])
for position = 2, #ARGV do
  local stream = key(KEYS[1], 'stream', ARGV[position])
  make_lane(stream, ttl_ms)
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, GROUP)) do
    local name, pending, idle_ms = consumer[2], consumer[4], consumer[6]
    if pending == 0 and idle_ms > ttl_ms then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, name) -- one that lives comes back by itself
    end
  end
end
return 1
