-- KEYS: the meter of one caller. ARGV: limit, window_us.
-- A leaky bucket: a call pours `window_us` into it, `limit` leaks out each microsecond, and what would
-- make it overflow is refused. All numbers are whole and below 2^53, so that exactly `limit` calls
-- pass at once. A call that a client library repeats after a broken connection may count twice.
-- Returns {taken, left, wait_us}; wait_us is the time until there is one more.
local limit, window_us = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local level, at_us = 0, now_us
local kept = redis.call('GET', KEYS[1])
if kept then
  local was, at = string.match(kept, '^(%d+) (%d+)$')
  level, at_us = tonumber(was), tonumber(at)
end
level = math.max(level - math.max(now_us - at_us, 0) * limit, 0)

local free = limit * window_us - level
local taken = 0
if free >= window_us then
  taken = 1
  level, free = level + window_us, free - window_us
end
-- also of a refusal: a clock that was set back must lock nobody out until it is as late again
redis.call('SET', KEYS[1], digits(level) .. ' ' .. digits(now_us),
  'PX', math.ceil(level / limit / 1000) + 1)
local left = math.floor(free / window_us)
return {taken, left, math.ceil(((left + 1) * window_us - free) / limit)}
