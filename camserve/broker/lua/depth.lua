-- KEYS: prefix. Returns how many jobs are open.
return depth(KEYS[1])
