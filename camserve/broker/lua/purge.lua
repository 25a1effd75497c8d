-- KEYS: prefix. ARGV: ids of dead letters; none for all of the model.
-- Forgets letters, with what their jobs were given. Returns how many there were.
local prefix, purged = KEYS[1], 0
local letters = prefix .. 'dead'
local ids = #ARGV > 0 and ARGV or redis.call('ZRANGE', letters, 0, -1)
for _, id in ipairs(ids) do
  if redis.call('DEL', key(prefix, 'letter', id)) == 1 then
    redis.call('DEL', key(prefix, 'in', id), key(prefix, 'att', id))
    purged = purged + 1
  end
  redis.call('ZREM', letters, id)
end
return purged
