-- KEYS: prefix.
-- ARGV: consumer, max_attempts, job_ttl_ms, failure of an expired job, failure of a dead one,
--       dead_letter_cap, dead_letter_ttl_ms; then of each job its id, lane, entry and token.
-- Returns for each {attempts, deadline_ms, document, ms since its entry was added}, or nothing if it
-- is not to run.
local prefix, consumer, max_attempts, ttl_ms = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]

local function begin(id, lane, entry, token)
  local job = key(prefix, 'job', id)
  local state, current, owner, attempts, deadline_ms, cancel, document, begun, priority, created_ms =
    unpack(redis.call('HMGET', job, 'state', 'entry', 'owner', 'attempts', 'deadline_ms', 'cancel',
      'document', 'begun', 'priority', 'created_ms'))

  -- For the operator: what is known of a job that was given up, for longer than the job itself.
  local function write_letter(cap, life_ms)
    local letters, letter = prefix .. 'dead', key(prefix, 'letter', id)
    redis.call('HSET', letter, 'document', document, 'priority', priority,
      'execution', string.match(lane, '@(.+)') or 'auto', 'created_ms', created_ms,
      'deadline_ms', deadline_ms, 'died_ms', digits(now_ms()),
      'kept_until_ms', digits(now_ms() + ttl_ms), 'begun', begun or '')
    redis.call('PEXPIRE', letter, life_ms)
    -- Of equal scores, so that they lie in the order of their ids, which is that of time.
    redis.call('ZADD', letters, 0, id)
    keep(letters, life_ms)
    for _, oldest in ipairs(redis.call('ZRANGE', letters, 0, -1 - cap)) do
      redis.call('DEL', key(prefix, 'letter', oldest))
      redis.call('ZREM', letters, oldest)
    end
  end

  if not OPEN[state] or current ~= entry then
    remove(prefix, lane, entry)
    return false
  end
  attempts = tonumber(attempts)
  local queued_ms = now_ms() - tonumber(string.match(entry, '^%d+'))
  if owner == token then
    return {attempts, deadline_ms, document, queued_ms} -- this very call again: its reply was lost
  end
  if cancel then
    close(prefix, id, lane, entry, 'canceled', ttl_ms)
    return false
  end
  if now_ms() >= tonumber(deadline_ms) then
    close(prefix, id, lane, entry, 'expired', ttl_ms, ARGV[4])
    return false
  end
  if attempts >= max_attempts then
    close(prefix, id, lane, entry, 'dead', ttl_ms, ARGV[5])
    write_letter(tonumber(ARGV[6]), ARGV[7])
    return false
  end
  count(prefix, 'job_attempts')
  if attempts == 0 then
    count_wait(prefix, priority, math.max(now_ms() - tonumber(created_ms), 0))
  end
  redis.call('HDEL', job, 'progress')
  redis.call('HSET', job, 'state', 'running', 'attempts', attempts + 1, 'owner', token,
    'consumer', consumer, 'started_ms', digits(now_ms()),
    'begun', (begun and begun .. '\n' or '') .. consumer .. ' ' .. digits(now_ms()))
  redis.call('PUBLISH', NEWS, id)
  return {attempts + 1, deadline_ms, document, queued_ms}
end

local started = {}
for place = 8, #ARGV, 4 do
  started[(place - 4) / 4] = begin(unpack(ARGV, place, place + 3))
end
return started
