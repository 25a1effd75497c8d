-- Joined behind the prelude in front of the scripts that make a job.
-- Until the jobs that are open now are done: by the pace, or because their deadlines have passed.
local function drain_ms(prefix, open_jobs)
  local work_ms, jobs, latest_ms = unpack(redis.call(
    'HMGET', pace_of(prefix), 'work_ms', 'jobs', 'latest_ms'))
  local job_ms = jobs and work_ms / jobs or UNKNOWN_MS
  local by_deadlines_ms = tonumber(latest_ms or now_ms()) - now_ms()
  return math.max(math.ceil(math.min(open_jobs * job_ms, by_deadlines_ms)), 1)
end

-- Each priority has a line of its own: neither fills that of the other. A redelivered job counts in
-- both, so that all of them together are never more than both caps. Returns nothing if there is room,
-- else how many are in the line, and the ms in which those are done that go before one more.
local function full(prefix, priority, cap)
  local open = depths(prefix)
  local line = open.redelivered + open[priority]
  if line < tonumber(cap) then
    return nil
  end
  return line, drain_ms(prefix, priority == 'bulk' and line + open.interactive or line)
end

-- What was answered already: the outcome and the id that answers it, or nothing. The same nonce is
-- this very call, sent again because its reply was lost.
local function earlier(prefix, id, nonce, idempotency, fingerprint)
  local known = redis.call('HGET', key(prefix, 'job', id), 'nonce')
  if known then
    return known == nonce and 'accepted' or 'duplicate', id
  end
  local seen = idempotency ~= '' and redis.call('GET', key(prefix, 'idem', idempotency))
  if seen then
    local first, mark = string.match(seen, '^([^\n]*)\n(.*)$')
    if redis.call('EXISTS', key(prefix, 'job', first)) == 1 then
      return mark == fingerprint and 'duplicate' or 'conflict', first
    end
  end
end

local function note_idempotency(prefix, idempotency, id, fingerprint, life_ms)
  if idempotency ~= '' then
    redis.call('SET', key(prefix, 'idem', idempotency), id .. '\n' .. fingerprint, 'PX', life_ms)
  end
end

-- What was staged, to its place; there may be none of it.
local function move(staged, name, life_ms)
  if redis.call('EXISTS', staged) == 1 then
    redis.call('RENAME', staged, name)
    redis.call('PEXPIRE', name, life_ms)
  end
end

-- Writes down a job. `new`: priority, lane, to_deadline_ms, document, ttl_ms, nonce; listed: how many
-- jobs are ('' for this one not to be); delivery_life_ms: for how long the news of its end may take to
-- be delivered ('' for none); measured: whether its end tells of the pace ('' for one that does not);
-- weight: how much of a batch it takes; digest: of what it computes, if its result may answer others
-- (else ''); lookup: what came of a look for such a result: hit, miss, or bypass, which is none ('' of
-- one that is not to be counted). Returns the life in ms.
local function write(prefix, id, state, new)
  local job = key(prefix, 'job', id)
  local to_deadline_ms = tonumber(new.to_deadline_ms)
  local life_ms = math.max(to_deadline_ms, 0) + tonumber(new.ttl_ms)
  local created_ms = now_ms()
  redis.call('HSET', job, 'state', state, 'priority', new.priority, 'lane', new.lane,
    'attempts', 0, 'created_ms', digits(created_ms),
    'deadline_ms', digits(created_ms + to_deadline_ms), 'document', new.document,
    'nonce', new.nonce, 'measured', new.measured, 'weight', new.weight)
  if new.digest ~= '' then
    redis.call('HSET', job, 'digest', new.digest)
  end
  if new.lookup ~= '' then
    redis.call('HSET', job, 'lookup', new.lookup)
    count(prefix, 'result_cache_lookups|' .. new.lookup)
  end
  if new.delivery_life_ms ~= '' then
    redis.call('HSET', job, 'delivery', 'pending', 'delivery_life_ms', new.delivery_life_ms)
  end
  redis.call('PEXPIRE', job, life_ms)
  if new.listed ~= '' then
    -- Of equal scores, so that they lie in the order of their ids, which is that of time.
    local recent = prefix .. 'recent'
    redis.call('ZADD', recent, 0, id)
    redis.call('ZREMRANGEBYRANK', recent, 0, -1 - new.listed)
    keep(recent, life_ms)
  end
  return life_ms
end

-- The one way into the queue. new: as `write` has it. The payload is the caller's. Returns the life
-- in ms.
local function accept(prefix, id, new)
  local latest_ms, pace = now_ms() + tonumber(new.to_deadline_ms), pace_of(prefix)
  if depth(prefix) == 0 then
    redis.call('HSET', pace, 'since_ms', digits(now_ms()), 'latest_ms', digits(latest_ms))
  elseif latest_ms > tonumber(redis.call('HGET', pace, 'latest_ms') or 0) then
    redis.call('HSET', pace, 'latest_ms', digits(latest_ms))
  end
  local life_ms = write(prefix, id, 'queued', new)
  keep(pace, life_ms)
  redis.call('HSET', key(prefix, 'job', id),
    'entry', add(prefix, new.lane, id, life_ms, new.weight))
  count(prefix, 'jobs_accepted|' .. new.priority)
  return life_ms
end
