-- KEYS: prefixes of the models, in the order to look at them.
-- ARGV: consumer, limit, weight of what it goes with, ttl_ms, width, then the lanes in the order to
--       look at them: `width` of each rank, which share one line.
-- Returns a list of {index of the prefix, lane, entry, id, weight}, all of one model and of at most
-- limit in weight, or a single heavier one; a redelivered entry comes alone. Never waits.
local consumer, limit, held = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ttl_ms, width = ARGV[4], tonumber(ARGV[5])

local function read(prefix, lane, count)
  local stream = key(prefix, 'stream', lane)
  local function ask()
    return redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count,
      'STREAMS', stream, '>')
  end
  local reply = ask()
  if reply and reply.err then
    -- The first look at this stream, or the first one after the server lost its data.
    if not string.find(reply.err, 'NOGROUP') then
      return error(reply.err)
    end
    make_lane(stream, ttl_ms)
    reply = ask()
  end
  return reply and reply[1] and reply[1][2] or {}
end

local function weight_of(entry)
  return tonumber(entry[2][4] or 1) -- an older version gave none
end

-- The next entries of the lanes, in the order in which they came: neither who names a device nor who
-- leaves it open is passed over.
local function line(prefix, lanes, count)
  local heads = {}
  for number, lane in ipairs(lanes) do
    for _, entry in ipairs(waiting(key(prefix, 'stream', lane), count)) do
      local ms, sequence = string.match(entry[1], '^(%d+)-(%d+)$')
      heads[#heads + 1] = {tonumber(ms), tonumber(sequence), number, weight_of(entry)}
    end
  end
  table.sort(heads, function(a, b)
    for place = 1, 3 do
      if a[place] ~= b[place] then
        return a[place] < b[place]
      end
    end
    return false
  end)
  return heads
end

-- Adds to the claims what they have room for, and returns the room that is left. The first of a
-- batch is taken whatever it weighs; what follows one that does not fit waits behind it.
local function take(claims, index, rank, room)
  local prefix, filled = KEYS[index], {}
  for position = rank, rank + width - 1 do
    if redis.call('XLEN', key(prefix, 'stream', ARGV[position])) > 0 then
      filled[#filled + 1] = ARGV[position]
    end
  end
  for _, head in ipairs(#filled > 0 and line(prefix, filled, math.max(room, 1)) or {}) do
    if #claims + held > 0 and head[4] > room then
      return 0
    end
    local lane = filled[head[3]]
    for _, entry in ipairs(read(prefix, lane, 1)) do
      claims[#claims + 1] = {index, lane, entry[1], entry[2][2], head[4]}
    end
    room = room - head[4]
  end
  return room
end

for rank = 6, #ARGV, width do
  local alone = string.find(ARGV[rank], '^redelivered')
  for index = 1, #KEYS do
    local claims = {}
    local room = take(claims, index, rank, alone and 1 or limit - held)
    if #claims > 0 then
      for lower = rank + width, alone and rank or #ARGV, width do
        if room > 0 then
          room = take(claims, index, lower, room)
        end
      end
      return claims
    end
  end
end
return {}
