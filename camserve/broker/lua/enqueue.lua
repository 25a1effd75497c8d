-- KEYS: prefix, staged payload, staged attachments.
-- ARGV: id, priority, lane, time_to_deadline_ms, document, job_ttl_ms, depth_cap, nonce,
--       owner and idempotency key ('' for none), fingerprint, how many jobs are listed ('' for this
--       one not to be), for how long the news of its end may take to be delivered ('' for none).
-- Returns {outcome, id, depth}; outcome is accepted, duplicate, conflict or full.
local prefix, payload, attachments = KEYS[1], KEYS[2], KEYS[3]
local id, priority, lane = ARGV[1], ARGV[2], ARGV[3]
local to_deadline_ms, document = ARGV[4], ARGV[5]
local ttl_ms, cap, nonce = ARGV[6], tonumber(ARGV[7]), ARGV[8]
local idempotency, fingerprint, listed, delivery_life_ms = ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local job = key(prefix, 'job', id)

local function refuse(outcome, other, open_jobs)
  redis.call('DEL', payload, attachments)
  return {outcome, other, open_jobs}
end

local known = redis.call('HGET', job, 'nonce')
if known then
  -- The same nonce is this very call, sent again because its reply was lost.
  return refuse(known == nonce and 'accepted' or 'duplicate', id, 0)
end

local seen = idempotency ~= '' and redis.call('GET', key(prefix, 'idem', idempotency))
if seen then
  local first, mark = string.match(seen, '^([^\n]*)\n(.*)$')
  if redis.call('EXISTS', key(prefix, 'job', first)) == 1 then
    return refuse(mark == fingerprint and 'duplicate' or 'conflict', first, 0)
  end
end

local open_jobs = depth(prefix)
if open_jobs >= cap then
  return refuse('full', id, open_jobs)
end

local life_ms = accept(prefix, id, {
  priority = priority, lane = lane, to_deadline_ms = to_deadline_ms, document = document,
  ttl_ms = ttl_ms, nonce = nonce, listed = listed, delivery_life_ms = delivery_life_ms,
})
redis.call('RENAME', payload, key(prefix, 'in', id))
redis.call('PEXPIRE', key(prefix, 'in', id), life_ms)
if redis.call('EXISTS', attachments) == 1 then
  redis.call('RENAME', attachments, key(prefix, 'att', id))
  redis.call('PEXPIRE', key(prefix, 'att', id), life_ms)
end
if idempotency ~= '' then
  redis.call('SET', key(prefix, 'idem', idempotency), id .. '\n' .. fingerprint, 'PX', life_ms)
end
return {'accepted', id, open_jobs + 1}
