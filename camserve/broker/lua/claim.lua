-- KEYS: prefixes of the models, in the order to look at them.
-- ARGV: consumer, limit, ttl_ms, then the lanes in the order to look at them.
-- Returns a list of {index of the prefix, lane, entry, id}, all of one model and at most limit
-- long; an entry of the redelivered lane comes alone. Never waits.
local consumer, limit, ttl_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]

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
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    reply = ask()
  end
  keep(stream, ttl_ms)
  return reply and reply[1] and reply[1][2] or {}
end

local function take(claims, index, lane, count)
  for _, entry in ipairs(read(KEYS[index], lane, count)) do
    claims[#claims + 1] = {index, lane, entry[1], entry[2][2]}
  end
end

for position = 4, #ARGV do
  for index = 1, #KEYS do
    local claims = {}
    local alone = ARGV[position] == 'redelivered'
    take(claims, index, ARGV[position], alone and 1 or limit)
    if #claims > 0 then
      for lower = position + 1, alone and position or #ARGV do
        if #claims < limit then
          take(claims, index, ARGV[lower], limit - #claims)
        end
      end
      return claims
    end
  end
end
return {}
