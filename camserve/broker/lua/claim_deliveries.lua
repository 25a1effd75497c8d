-- KEYS: prefix. ARGV: token, lease_ms, how many at most.
-- Leases deliveries that are due, the longest due first; a lease that runs out makes them due again.
-- Returns their ids. Sent again because its reply was lost, the call does not return them again:
-- they wait for the end of the lease.
local prefix, token, lease_ms, most = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local waiting_list, now, claimed = prefix .. 'deliveries', now_ms(), {}
for _, id in ipairs(redis.call(
  'ZRANGEBYSCORE', waiting_list, '-inf', digits(now), 'LIMIT', 0, most)) do
  local job = key(prefix, 'job', id)
  if redis.call('HGET', job, 'delivery') == 'pending' then
    redis.call('ZADD', waiting_list, digits(now + lease_ms), id)
    redis.call('HSET', job, 'delivery_token', token)
    claimed[#claimed + 1] = id
  else
    redis.call('ZREM', waiting_list, id) -- its job is gone
  end
end
return claimed
