-- KEYS: cam:commands. ARGV: id, kind, model, life in ms, cap. Tells all workers.
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], '*', 'id', ARGV[1], 'kind', ARGV[2],
  'model', ARGV[3])
keep(KEYS[1], ARGV[4])
return 1
