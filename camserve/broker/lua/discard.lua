-- KEYS: prefix. ARGV: id. Forgets a closed job with its result. Returns 1, or 0 if it is open or not
-- there.
local prefix, id = KEYS[1], ARGV[1]
local state = redis.call('HGET', key(prefix, 'job', id), 'state')
if not state or OPEN[state] then
  return 0
end
redis.call('DEL', key(prefix, 'job', id), key(prefix, 'in', id), key(prefix, 'out', id),
  key(prefix, 'att', id))
return 1
