-- KEYS: cam:workers. ARGV: worker id, record. Stamps the record with the server's time.
-- Returns 1 when the worker was known before.
local known = redis.call('HEXISTS', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], digits(now_ms()) .. '\n' .. ARGV[2])
return known
