-- KEYS: cam:queues. ARGV: model, life in ms. Notes that the model has jobs, for the reaper.
redis.call('SADD', KEYS[1], ARGV[1])
keep(KEYS[1], ARGV[2])
return 1
