-- KEYS: prefix. ARGV: id, token, progress. Notes how far a running job is, if this owner still has it.
local job = key(KEYS[1], 'job', ARGV[1])
local state, owner = unpack(redis.call('HMGET', job, 'state', 'owner'))
if state ~= 'running' or owner ~= ARGV[2] then
  return 0
end
redis.call('HSET', job, 'progress', ARGV[3])
redis.call('PUBLISH', NEWS, ARGV[1])
return 1
