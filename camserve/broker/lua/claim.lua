-- KEYS: prefixes of the models, in the order to look at them.
-- ARGV: consumer, limit, ttl_ms, width, then the lanes in the order to look at them: `width` of each
--       rank, which share one line.
-- Returns a list of {index of the prefix, lane, entry, id}, all of one model and at most limit
-- long; a redelivered entry comes alone. Never waits.
local consumer, limit, ttl_ms, width = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

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

-- The lanes of the entries that came first, one for each: neither who names a device nor who
-- leaves it open is passed over.
local function line(prefix, lanes, count)
  local heads, first = {}, {}
  for number, lane in ipairs(lanes) do
    for _, entry in ipairs(waiting(key(prefix, 'stream', lane), count)) do
      local ms, sequence = string.match(entry[1], '^(%d+)-(%d+)$')
      heads[#heads + 1] = {tonumber(ms), tonumber(sequence), number}
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
  for place = 1, math.min(count, #heads) do
    first[place] = lanes[heads[place][3]]
  end
  return first
end

local function take(claims, index, rank, count)
  local prefix, filled = KEYS[index], {}
  for position = rank, rank + width - 1 do
    if redis.call('XLEN', key(prefix, 'stream', ARGV[position])) > 0 then
      filled[#filled + 1] = ARGV[position]
    end
  end
  local single = #filled == 1
  for _, lane in ipairs(single and filled or line(prefix, filled, count)) do
    for _, entry in ipairs(read(prefix, lane, single and count or 1)) do
      claims[#claims + 1] = {index, lane, entry[1], entry[2][2]}
    end
  end
end

for rank = 5, #ARGV, width do
  local alone = string.find(ARGV[rank], '^redelivered')
  for index = 1, #KEYS do
    local claims = {}
    take(claims, index, rank, alone and 1 or limit)
    if #claims > 0 then
      for lower = rank + width, alone and rank or #ARGV, width do
        if #claims < limit then
          take(claims, index, lower, limit - #claims)
        end
      end
      return claims
    end
  end
end
return {}
