-- KEYS: prefixes of the models, in the order to look at them.
-- ARGV: consumer, limit, ttl_ms, width, and for each rank, in the order to look at them, the weights of
--       what the worker has in reserve of it and of the first model ('1,1,3'), and the rank's `width`
--       lanes, which share one line.
-- Returns how many of the reserve go now, and a list of {index of the prefix, lane, entry, id, weight}
-- of what goes with them: all of one model and of at most limit in weight, or a single heavier one; a
-- redelivered one comes alone. What is in reserve goes before others of its rank. Never waits.
local consumer, limit, ttl_ms, width = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local kept, claims = 0, {}

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

-- The first of a batch is taken whatever it weighs; what follows one that does not fit waits behind it.
local function fits(weight, room)
  return kept + #claims == 0 or weight <= room
end

-- Adds what there is room for of one model and rank, and returns the room that is left.
local function take(index, rank, room)
  local prefix, filled = KEYS[index], {}
  for weight in string.gmatch(index == 1 and ARGV[rank] or '', '%d+') do
    if not fits(tonumber(weight), room) then
      return 0
    end
    kept, room = kept + 1, room - weight
  end
  if not fits(1, room) then
    return 0
  end
  for position = rank + 1, rank + width do
    if redis.call('XLEN', key(prefix, 'stream', ARGV[position])) > 0 then
      filled[#filled + 1] = ARGV[position]
    end
  end
  for _, head in ipairs(#filled > 0 and line(prefix, filled, math.max(room, 1)) or {}) do
    if not fits(head[4], room) then
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

for rank = 5, #ARGV, width + 1 do
  local alone = string.find(ARGV[rank + 1], '^redelivered')
  for index = 1, #KEYS do
    local room = take(index, rank, alone and 1 or limit)
    if kept + #claims > 0 then
      for lower = rank + width + 1, alone and rank or #ARGV, width + 1 do
        if room > 0 then
          room = take(index, lower, room)
        end
      end
      return {kept, claims}
    end
  end
end
return {0, {}}
