-- KEYS: prefix. ARGV: 'idle' and the lease in ms, or 'consumer' and a name; then job_ttl_ms.
-- Puts back what nobody looks after: entries whose lease ran out, or all of a dead consumer's, who
-- is then forgotten. Returns how many went back.
local prefix, by, value, ttl_ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local how = by == 'idle' and 'lease' or 'death'
local moved = 0
for _, lane in ipairs(all_lanes(prefix)) do
  local stream = key(prefix, 'stream', lane)
  -- What this very call puts back is not pending, so each round sees only what is left.
  while true do
    local pending
    if by == 'idle' then
      pending = redis.pcall('XPENDING', stream, GROUP, 'IDLE', value, '-', '+', 100)
    else
      pending = redis.pcall('XPENDING', stream, GROUP, '-', '+', 100, value)
    end
    if pending.err or #pending == 0 then
      break -- an error is a missing group: nothing was ever delivered
    end
    for _, item in ipairs(pending) do
      local entry = redis.call('XRANGE', stream, item[1], item[1])[1]
      if entry then
        moved = moved + requeue(prefix, lane, item[1], entry[2][2], ttl_ms, how)
      else
        redis.call('XACK', stream, GROUP, item[1])
      end
    end
  end
  if by == 'consumer' then
    redis.pcall('XGROUP', 'DELCONSUMER', stream, GROUP, value)
  end
end
return moved
