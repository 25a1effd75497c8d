-- KEYS: prefix. ARGV: id, job_ttl_ms.
-- A queued job is canceled at once; a running one is asked to stop, which begin, finish and the
-- reaper honour; a closed one stays as it is.
local prefix, id, ttl_ms = KEYS[1], ARGV[1], ARGV[2]
local job = key(prefix, 'job', id)
local state, lane, entry = unpack(redis.call('HMGET', job, 'state', 'lane', 'entry'))
if state == 'queued' then
  redis.call('HSET', job, 'cancel', 1)
  close(prefix, id, lane, entry, 'canceled', ttl_ms)
elseif state == 'running' then
  redis.call('HSET', job, 'cancel', 1)
  redis.call('PUBLISH', NEWS, id)
end
return state
