-- KEYS: prefix. ARGV: id, lane, entry, consumer, token ('' for a claim that has not begun).
-- Renews the lease. Returns 1, or 0 when it was lost: whoever takes a job over, or closes it,
-- deletes the entry, and XCLAIM passes over what is not pending.
local prefix, id, lane, entry, consumer, token = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if token ~= '' and redis.call('HGET', key(prefix, 'job', id), 'owner') ~= token then
  return 0
end
local stream = key(prefix, 'stream', lane)
local claimed = redis.pcall('XCLAIM', stream, GROUP, consumer, 0, entry, 'JUSTID')
if claimed.err then
  return 0 -- no group: the server lost its data
end
return #claimed
