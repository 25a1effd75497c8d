-- KEYS: prefix.
-- ARGV: id of a dead letter, id of the new job, priority, lane, time_to_deadline_ms, document,
--       job_ttl_ms, cap of its line, nonce, listed, delivery_life_ms, measured, weight, digest,
--       lookup: as enqueue has them.
-- A new job from the payload of a dead one, unless an earlier replay of it is still open.
-- Returns {outcome, id}, of which outcome is accepted, open (the id of that replay), gone (no payload)
-- or missing (no letter); or what enqueue returns of a line that is full.
local prefix, id, new_id, nonce = KEYS[1], ARGV[1], ARGV[2], ARGV[9]
local letter = key(prefix, 'letter', id)
if redis.call('HGET', key(prefix, 'job', new_id), 'nonce') == nonce then
  return {'accepted', new_id} -- this very call again: its reply was lost
end
if redis.call('EXISTS', letter) == 0 then
  return {'missing', id}
end
local earlier = redis.call('HGET', letter, 'replay')
if earlier and OPEN[redis.call('HGET', key(prefix, 'job', earlier), 'state')] then
  return {'open', earlier}
end
if redis.call('EXISTS', key(prefix, 'in', id)) == 0 then
  return {'gone', id}
end
local line, line_ms = full(prefix, ARGV[3], ARGV[8])
if line then
  return {'full', line, line_ms}
end

local life_ms = accept(prefix, new_id, {
  priority = ARGV[3], lane = ARGV[4], to_deadline_ms = ARGV[5], document = ARGV[6],
  ttl_ms = ARGV[7], nonce = nonce, listed = ARGV[10], delivery_life_ms = ARGV[11],
  measured = ARGV[12], weight = ARGV[13], digest = ARGV[14], lookup = ARGV[15],
})
for _, kind in ipairs({'in', 'att'}) do
  if redis.call('COPY', key(prefix, kind, id), key(prefix, kind, new_id)) == 1 then
    redis.call('PEXPIRE', key(prefix, kind, new_id), life_ms)
  end
end
redis.call('HSET', letter, 'replay', new_id)
return {'accepted', new_id}
