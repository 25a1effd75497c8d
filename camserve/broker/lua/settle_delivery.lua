-- KEYS: prefix.
-- ARGV: id, token, state (delivered, failed, or pending for another attempt), ms until that, outcome,
--       job_ttl_ms.
-- Notes how an attempt ended. What is settled lives as long as any closed job, from now on. Returns
-- 1, or 0 when the lease was lost: to another front end, or with the job.
local prefix, id, token, state = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local delay_ms, outcome, ttl_ms = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local job, waiting_list = key(prefix, 'job', id), prefix .. 'deliveries'
if redis.call('HGET', job, 'delivery_token') ~= token then
  return 0
end
redis.call('HDEL', job, 'delivery_token')
redis.call('HINCRBY', job, 'delivery_attempts', 1)
redis.call('HSET', job, 'delivery', state, 'delivery_outcome', outcome)
if state == 'pending' then
  deliver(prefix, id, delay_ms, delay_ms + tonumber(ttl_ms))
  return 1
end
redis.call('ZREM', waiting_list, id)
redis.call('HDEL', job, 'delivery_due_ms')
for _, kind in ipairs({'job', 'out', 'att'}) do
  redis.call('PEXPIRE', key(prefix, kind, id), ttl_ms)
end
return 1
