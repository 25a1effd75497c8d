-- KEYS: prefix. ARGV: id.
-- Returns how many jobs of the model wait in front of a queued one: those of a higher rank, and those
-- of its own that came before it, whatever their device. Nothing for a job that does not wait.
local EVERY = 1000000
local prefix = KEYS[1]
local state, lane, entry = unpack(redis.call('HMGET', key(prefix, 'job', ARGV[1]), 'state', 'lane', 'entry'))
if state ~= 'queued' then
  return false
end

local function rank_of(name)
  local rank = string.match(name, '^[^@]+')
  for place, known in ipairs(RANKS) do
    if known == rank then
      return place
    end
  end
end

local mine, ahead = rank_of(lane), 0
for _, other in ipairs(all_lanes(prefix)) do
  local stream, rank = key(prefix, 'stream', other), rank_of(other)
  if rank <= mine and redis.call('XLEN', stream) > 0 then
    ahead = ahead + #waiting(stream, EVERY, rank == mine and '(' .. entry or '+')
  end
end
return ahead
