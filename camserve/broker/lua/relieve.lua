-- KEYS: prefix. ARGV: how many at most, job_ttl_ms, lanes.
-- Puts back what busy workers have claimed ahead and not begun, for one that is idle. Returns how many
-- went back.
local prefix, most, ttl_ms = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local MORE_THAN_ARE_HELD = 10000
local moved = 0
for place = 3, #ARGV do
  local lane = ARGV[place]
  local stream = key(prefix, 'stream', lane)
  local pending = redis.call('XLEN', stream) > 0
    and redis.pcall('XPENDING', stream, GROUP, '-', '+', MORE_THAN_ARE_HELD) or {}
  for _, item in ipairs(pending.err and {} or pending) do
    if moved < most and string.find(item[2], AHEAD .. '$') then
      local entry = redis.call('XRANGE', stream, item[1], item[1])[1]
      if entry and redis.call('HGET', key(prefix, 'job', entry[2][2]), 'state') == 'queued' then
        moved = moved + requeue(prefix, lane, item[1], entry[2][2], ttl_ms)
      end
    end
  end
end
return moved
