-- KEYS: prefix, staged payload, staged attachments.
-- ARGV: id, priority, lane, time_to_deadline_ms, document, job_ttl_ms, cap of its line, nonce,
--       owner and idempotency key ('' for none), fingerprint; listed, delivery_life_ms, measured,
--       weight, digest, lookup: as `write` has them.
-- Returns {outcome, id}, of which outcome is accepted, duplicate or conflict; or {'full', how many
-- are in the line, ms until they are done}.
local prefix, payload, attachments = KEYS[1], KEYS[2], KEYS[3]
local id, priority, lane = ARGV[1], ARGV[2], ARGV[3]
local to_deadline_ms, document = ARGV[4], ARGV[5]
local ttl_ms, cap, nonce = ARGV[6], ARGV[7], ARGV[8]
local idempotency, fingerprint = ARGV[9], ARGV[10]

local function refuse(...)
  redis.call('DEL', payload, attachments)
  return {...}
end

local outcome, first = earlier(prefix, id, nonce, idempotency, fingerprint)
if outcome then
  return refuse(outcome, first)
end

local line, line_ms = full(prefix, priority, cap)
if line then
  return refuse('full', line, line_ms)
end

local life_ms = accept(prefix, id, {
  priority = priority, lane = lane, to_deadline_ms = to_deadline_ms, document = document,
  ttl_ms = ttl_ms, nonce = nonce, listed = ARGV[11],
  delivery_life_ms = ARGV[12], measured = ARGV[13], weight = ARGV[14],
  digest = ARGV[15], lookup = ARGV[16],
})
redis.call('RENAME', payload, key(prefix, 'in', id))
redis.call('PEXPIRE', key(prefix, 'in', id), life_ms)
move(attachments, key(prefix, 'att', id), life_ms)
note_idempotency(prefix, idempotency, id, fingerprint, life_ms)
return {'accepted', id}
