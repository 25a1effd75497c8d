-- KEYS: prefix. ARGV: lanes. Returns 1 if there is an entry in one that nobody was given yet.
for _, lane in ipairs(ARGV) do
  local stream = key(KEYS[1], 'stream', lane)
  if redis.call('XLEN', stream) > 0 and #waiting(stream, 1) > 0 then
    return 1
  end
end
return 0
