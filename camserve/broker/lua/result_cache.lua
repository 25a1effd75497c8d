-- Joined behind the prelude in front of the scripts that use it: results that answer later jobs of
-- the same computation. An entry's id is the digest of what was computed, and the device if the job
-- named one. Its value passes away by itself, and a server that is set up to evict may drop it, or an
-- index: nothing here may keep a job from its end.
local ENTRY_BYTES = 700 -- besides the value: its key, and its places in three indexes; as measured
local LARGEST_SHARE = 16 -- of the whole: a larger result would drive out thousands
local AT_ONCE = 2000 -- entries dropped by one script: some ms of the server's

local function entry_id(digest, lane)
  return digest .. (string.match(lane, '@.+') or '')
end

local function drop(prefix, id)
  local sizes = prefix .. 'cached-bytes'
  local bytes = redis.call('HGET', sizes, id)
  redis.call('DEL', key(prefix, 'cache', id))
  redis.call('ZREM', prefix .. 'cached', id)
  redis.call('ZREM', prefix .. 'cached-until', id)
  if bytes then
    redis.call('HDEL', sizes, id)
    redis.call('HINCRBY', sizes, 'all', -bytes)
  end
end

-- The indexes tell of the same entries, unless the server evicted one of them: they begin anew then,
-- and what they knew passes away by itself, or is evicted as well.
local function mend(prefix)
  local cached, until_when, sizes = prefix .. 'cached', prefix .. 'cached-until', prefix .. 'cached-bytes'
  local entries = redis.call('ZCARD', cached)
  local sized = math.max(redis.call('HLEN', sizes) - 1, 0) -- but for `all`
  if entries == 0 or redis.call('ZCARD', until_when) ~= entries or sized ~= entries then
    redis.call('DEL', cached, until_when, sizes)
  end
end

-- Drops what has passed away, and then, while all together is more than `most` bytes, what was not
-- used for longest.
local function trim(prefix, most)
  mend(prefix)
  local until_when, left = prefix .. 'cached-until', AT_ONCE
  for _, id in ipairs(redis.call(
    'ZRANGEBYSCORE', until_when, '-inf', digits(now_ms()), 'LIMIT', 0, left)) do
    drop(prefix, id)
    left = left - 1
  end
  while left > 0 and tonumber(redis.call('HGET', prefix .. 'cached-bytes', 'all') or 0) > most do
    drop(prefix, redis.call('ZRANGE', prefix .. 'cached', 0, 0)[1])
    count(prefix, 'result_cache_evictions')
    left = left - 1
  end
end

-- It was used: entries go in the order of that. One that no index knows any more stays unknown, and
-- passes away by itself.
local function touch(prefix, id)
  redis.call('ZADD', prefix .. 'cached', 'XX', digits(now_ms()), id)
end

-- Keeps a result for later jobs. Returns whether there was room for it.
local function remember(prefix, id, result, most, ttl_ms)
  local bytes, value = redis.call('STRLEN', result) + ENTRY_BYTES, key(prefix, 'cache', id)
  if bytes * LARGEST_SHARE > most then
    return false
  end
  local function put()
    mend(prefix)
    drop(prefix, id) -- whose place it takes
    redis.call('COPY', result, value)
    redis.call('PEXPIRE', value, ttl_ms)
    redis.call('ZADD', prefix .. 'cached', digits(now_ms()), id)
    redis.call('ZADD', prefix .. 'cached-until', digits(now_ms() + ttl_ms), id)
    redis.call('HSET', prefix .. 'cached-bytes', id, bytes)
    redis.call('HINCRBY', prefix .. 'cached-bytes', 'all', bytes)
    for _, index in ipairs({'cached', 'cached-until', 'cached-bytes'}) do
      keep(prefix .. index, ttl_ms)
    end
    trim(prefix, most)
  end
  if pcall(put) then
    return redis.call('EXISTS', value) == 1
  end
  pcall(drop, prefix, id)
  return false
end
