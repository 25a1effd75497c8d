-- KEYS: prefix. ARGV: nonce of this call, then fields and by how much each grows.
-- Adds what a process measured to the totals, once. Returns 1, or 0 if this very call came before.
local prefix = KEYS[1]
if not redis.call('SET', key(prefix, 'added', ARGV[1]), '', 'NX', 'PX', ADDED_LIFE_MS) then
  return 0
end
for position = 2, #ARGV, 2 do
  redis.call('HINCRBYFLOAT', prefix .. 'totals', ARGV[position], ARGV[position + 1])
end
keep_totals(prefix)
return 1
