-- KEYS: the answers to a command. ARGV: worker, failure ('' for none), life in ms, command id.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', DONE, ARGV[4])
return 1
