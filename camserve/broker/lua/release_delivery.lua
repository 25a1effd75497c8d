-- KEYS: prefix. ARGV: id, token, ms until it is due again, job_ttl_ms. Hands a leased delivery back.
-- Returns 1, or 0 when the lease was lost.
local prefix, id, token = KEYS[1], ARGV[1], ARGV[2]
local delay_ms, ttl_ms = tonumber(ARGV[3]), tonumber(ARGV[4])
local job = key(prefix, 'job', id)
if redis.call('HGET', job, 'delivery_token') ~= token then
  return 0
end
redis.call('HDEL', job, 'delivery_token')
deliver(prefix, id, delay_ms, delay_ms + ttl_ms)
return 1
