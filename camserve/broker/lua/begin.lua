-- KEYS: prefix.
-- ARGV: id, lane, entry, token, consumer, max_attempts, job_ttl_ms, dead_letter_cap,
--       failure of an expired job, failure of a dead one.
-- Returns {attempts, deadline_ms, document}, or nothing when the job is not to run.
local prefix, id, lane, entry, token = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local consumer, max_attempts, ttl_ms, cap = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local job = key(prefix, 'job', id)
local state, current, owner, attempts, deadline_ms, cancel, document, last = unpack(redis.call(
  'HMGET', job, 'state', 'entry', 'owner', 'attempts', 'deadline_ms', 'cancel', 'document',
  'consumer'))

if not OPEN[state] or current ~= entry then
  remove(prefix, lane, entry)
  return false
end
attempts = tonumber(attempts)
if owner == token then
  return {attempts, deadline_ms, document} -- this very call again: its reply was lost
end
if cancel then
  close(prefix, id, lane, entry, 'canceled', ttl_ms)
  return false
end
if now_ms() >= tonumber(deadline_ms) then
  close(prefix, id, lane, entry, 'expired', ttl_ms, ARGV[9])
  return false
end
if attempts >= max_attempts then
  close(prefix, id, lane, entry, 'dead', ttl_ms, ARGV[10])
  local letters = prefix .. 'dead'
  redis.call('LPUSH', letters, cjson.encode({
    id = id, attempts = attempts, consumer = last, at_ms = now_ms(),
    reason = 'its worker vanished in each of ' .. attempts .. ' attempts',
  }))
  redis.call('LTRIM', letters, 0, cap - 1)
  return false
end
redis.call('HDEL', job, 'progress')
redis.call('HSET', job, 'state', 'running', 'attempts', attempts + 1, 'owner', token,
  'consumer', consumer, 'started_ms', digits(now_ms()))
redis.call('PUBLISH', NEWS, id)
return {attempts + 1, deadline_ms, document}
