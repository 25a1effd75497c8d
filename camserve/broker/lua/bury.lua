-- KEYS: cam:workers. ARGV: worker_stale_ms. Removes workers whose last heartbeat is older.
local records, oldest_ms = redis.call('HGETALL', KEYS[1]), now_ms() - tonumber(ARGV[1])
for index = 1, #records, 2 do
  if tonumber(string.match(records[index + 1], '^%d+')) < oldest_ms then
    redis.call('HDEL', KEYS[1], records[index])
  end
end
return 1
