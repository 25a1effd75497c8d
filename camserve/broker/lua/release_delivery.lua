-- KEYS: prefix. ARGV: id, token. Hands a leased delivery back, which is then due at once. Returns 1,
-- or 0 when the lease was lost.
local prefix, id, token = KEYS[1], ARGV[1], ARGV[2]
local job = key(prefix, 'job', id)
if redis.call('HGET', job, 'delivery_token') ~= token then
  return 0
end
redis.call('HDEL', job, 'delivery_token')
redis.call('ZADD', prefix .. 'deliveries', digits(now_ms()), id)
redis.call('PUBLISH', DELIVERIES, '')
return 1
