-- KEYS: prefix, staged attachments.
-- ARGV: id, priority, lane, time_to_deadline_ms, document, job_ttl_ms, nonce, owner and idempotency
--       key ('' for none), fingerprint; listed, delivery_life_ms, weight: as enqueue has them; digest
--       of what it computes.
-- A job that an earlier result answers: it is closed as it is made, and was never in the queue.
-- Returns {outcome, id}, of which outcome is accepted, duplicate or conflict; or {'miss'}, and nothing
-- was done.
local prefix, attachments = KEYS[1], KEYS[2]
local id, lane, ttl_ms, nonce = ARGV[1], ARGV[3], tonumber(ARGV[6]), ARGV[7]
local idempotency, fingerprint = ARGV[8], ARGV[9]
local job = key(prefix, 'job', id)

local function refuse(...)
  redis.call('DEL', attachments)
  return {...}
end

local outcome, first = earlier(prefix, id, nonce, idempotency, fingerprint)
if outcome then
  return refuse(outcome, first)
end
local entry, result = entry_id(ARGV[13], lane), key(prefix, 'out', id)
if redis.call('COPY', key(prefix, 'cache', entry), result, 'REPLACE') == 0 then
  return refuse('miss')
end
redis.call('PEXPIRE', result, ttl_ms)
touch(prefix, entry)
local life_ms = write(prefix, id, 'succeeded', {
  priority = ARGV[2], lane = lane, to_deadline_ms = ARGV[4], document = ARGV[5],
  ttl_ms = ttl_ms, nonce = nonce, listed = ARGV[10], delivery_life_ms = ARGV[11],
  measured = '', weight = ARGV[12], digest = '', lookup = 'hit',
})
redis.call('HSET', job, 'completed_ms', digits(now_ms()))
redis.call('PEXPIRE', job, ttl_ms)
move(attachments, key(prefix, 'att', id), ttl_ms)
note_idempotency(prefix, idempotency, id, fingerprint, life_ms)
tell(prefix, id, ttl_ms)
return {'accepted', id}
