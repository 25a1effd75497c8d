-- KEYS: prefix. ARGV: id, lane, entry, job_ttl_ms. Hands one claim back. Returns 1 if it was held.
return requeue(KEYS[1], ARGV[2], ARGV[3], ARGV[1], tonumber(ARGV[4]))
