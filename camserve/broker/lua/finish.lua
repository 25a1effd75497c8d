-- KEYS: prefix, staged result.
-- ARGV: id, token, state (succeeded or failed; expired: only if its deadline has passed),
--       job_ttl_ms, failure ('' for none); digest of what was computed, bytes of the cache of
--       results, result_cache_ttl_ms.
-- Returns 1 when this owner closed the job, now or in an earlier call whose reply was lost; 0 when
-- the owner is stale. A cancel request is honoured here: the job ends as canceled, without result.
local prefix, staged = KEYS[1], KEYS[2]
local id, token, outcome, ttl_ms, failure = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local job = key(prefix, 'job', id)
local state, owner, cancel, lane, entry, closer, started_ms, measured, digest =
  unpack(redis.call('HMGET', job, 'state', 'owner', 'cancel', 'lane', 'entry', 'closed_by',
    'started_ms', 'measured', 'digest'))

if outcome == 'expired' and not cancel and state == 'running' and owner == token
  and now_ms() < tonumber(redis.call('HGET', job, 'deadline_ms')) then
  return 0
end

if state ~= 'running' or owner ~= token then
  redis.call('DEL', staged)
  return closer == token and 1 or 0
end
if outcome == 'succeeded' and not cancel then
  -- Before all else: where it was evicted this raises, and the call may come again.
  local result = key(prefix, 'out', id)
  redis.call('RENAME', staged, result)
  redis.call('PEXPIRE', result, ttl_ms)
  -- A worker that has another version by now computed something else than was asked for.
  if digest and digest == ARGV[6]
    and remember(prefix, entry_id(digest, lane), result, tonumber(ARGV[7]), tonumber(ARGV[8])) then
    redis.call('HSET', job, 'stored', 1)
  end
end
redis.call('HSET', job, 'closed_by', token)
if measured ~= '' and outcome ~= 'expired' then
  learn_pace(prefix, started_ms, ttl_ms)
end
if cancel then
  redis.call('DEL', staged)
  close(prefix, id, lane, entry, 'canceled', ttl_ms)
  return 1
end
close(prefix, id, lane, entry, outcome, ttl_ms, failure)
return 1
