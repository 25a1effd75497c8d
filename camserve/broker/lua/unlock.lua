-- KEYS: a lock. ARGV: the holder's token. Gives the lock back unless another holds it by now.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
