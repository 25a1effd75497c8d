-- Joined in front of every script; scripts.py says which parts come behind it. The keys of one model share the prefix "cam:{M}:", which is
-- also the hash tag that keeps them in one slot of a cluster; keys.py spells the same names.
local GROUP = 'workers'
local AHEAD = ':ahead' -- ends the name by which a busy worker claims what it begins next
local RANKS = {'redelivered', 'interactive', 'bulk'}
local DONE = 'cam:done'
local NEWS = 'cam:news'
local DELIVERIES = 'cam:deliveries'
local OPEN = {queued = true, running = true}
local TOTALS_LIFE_MS = 30 * 24 * 3600 * 1000 -- without a job; a counter that begins anew loses its past
local ADDED_LIFE_MS = 60000
local LONGEST_WAIT_MS = 131072 -- the bound of the last bucket but one: see camserve/measures.py

local function key(prefix, kind, id)
  return prefix .. kind .. ':' .. id
end

-- The server's clock: the only one that every process shares. Read once, so that a transition
-- happens at one time: before Redis 7.2 the clock runs on while a script does.
local clock_ms

local function now_ms()
  if not clock_ms then
    local time = redis.call('TIME')
    clock_ms = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock_ms
end

-- A number as digits: Lua would write a large one with an exponent.
local function digits(number)
  return string.format('%.0f', number)
end

-- Lengthens a life, never shortens it.
local function keep(name, ttl_ms)
  if redis.call('PTTL', name) < tonumber(ttl_ms) then
    redis.call('PEXPIRE', name, ttl_ms)
  end
end

local function keep_totals(prefix)
  if redis.call('PTTL', prefix .. 'totals') < TOTALS_LIFE_MS / 2 then
    redis.call('PEXPIRE', prefix .. 'totals', TOTALS_LIFE_MS)
  end
end

-- Counts a transition in the script that makes it: once, wherever it happens and whoever dies.
local function count(prefix, field)
  redis.call('HINCRBY', prefix .. 'totals', field, 1)
  keep_totals(prefix)
end

-- Notes for how long a job waited, in a bucket of twice the width of the one below.
local function count_wait(prefix, priority, waited_ms)
  local bound, field = 1, 'queue_wait_seconds|' .. priority .. '|'
  while bound < waited_ms and bound <= LONGEST_WAIT_MS do
    bound = bound * 2
  end
  count(prefix, field .. (bound > LONGEST_WAIT_MS and '+Inf' or string.format('%.3f', bound / 1000)))
  redis.call('HINCRBYFLOAT', prefix .. 'totals', field .. 'sum', string.format('%.3f', waited_ms / 1000))
end

-- Where there may be entries: the lanes of jobs that name no device, and those of the devices named.
local function all_lanes(prefix)
  local lanes = redis.call('SMEMBERS', prefix .. 'lanes')
  for _, rank in ipairs(RANKS) do
    lanes[#lanes + 1] = rank
  end
  return lanes
end

-- Open jobs of each rank.
local function depths(prefix)
  local open = {}
  for _, rank in ipairs(RANKS) do
    open[rank] = 0
  end
  for _, lane in ipairs(all_lanes(prefix)) do
    local rank = string.match(lane, '^[^@]+')
    open[rank] = open[rank] + redis.call('XLEN', key(prefix, 'stream', lane))
  end
  return open
end

local function depth(prefix)
  local open = depths(prefix)
  return open.redelivered + open.interactive + open.bulk
end

-- The one way into a lane: what all_lanes does not know is neither counted nor reaped.
local function add(prefix, lane, id, life_ms, weight)
  local stream, lanes = key(prefix, 'stream', lane), prefix .. 'lanes'
  local entry = redis.call('XADD', stream, '*', 'id', id, 'weight', weight)
  keep(stream, life_ms)
  if string.find(lane, '@') then
    redis.call('SADD', lanes, lane)
    keep(lanes, life_ms)
  end
  return entry
end

-- The pace of a model: ms of work for each job that its workers finished, of late and all together.
-- It is measured between the ends of jobs while there are some, so that it holds whatever there is of
-- workers, batches and other models' jobs. A hash: work_ms and jobs are sums that fade; since_ms is
-- when the last job ended, or the first came after none; latest_ms the latest deadline of all.
local FADE_MS = 60000 -- of work, until a measurement weighs a third
local LONGEST_GAP_MS = 20000 -- between two jobs that other models may account for: more is an outage
local UNKNOWN_MS = 1000 -- for each job, while none was measured

local function pace_of(prefix)
  return prefix .. 'pace'
end

-- A job that began at started_ms was ended by its worker.
local function learn_pace(prefix, started_ms, ttl_ms)
  local pace, now = pace_of(prefix), now_ms()
  local since_ms, work_ms, jobs = unpack(redis.call('HMGET', pace, 'since_ms', 'work_ms', 'jobs'))
  -- never later than now: after a clock was set back, a time below zero would not fade what was
  -- measured but make it grow, without end
  local began = math.min(tonumber(started_ms), now)
  local since = math.min(tonumber(since_ms or began), now)
  -- since the job before it, or since it began, if that was longer after it than jobs lie apart
  local spent_ms = now - began + math.min(began - since, LONGEST_GAP_MS)
  local faded = math.exp(-spent_ms / FADE_MS)
  redis.call('HSET', pace, 'since_ms', digits(now),
    'work_ms', string.format('%.3f', (work_ms or 0) * faded + spent_ms),
    'jobs', string.format('%.6f', (jobs or 0) * faded + 1))
  keep(pace, ttl_ms)
end

-- Makes a lane that can be read and waited for, if it is not there.
local function make_lane(stream, ttl_ms)
  local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then
    return error(made.err)
  end
  keep(stream, ttl_ms)
end

-- The first entries of a stream, at most up to one, that nobody was given yet.
local function waiting(stream, count, last)
  local after = '-'
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local of = {}
    for index = 1, #group, 2 do
      of[group[index]] = group[index + 1]
    end
    if of['name'] == GROUP then
      after = '(' .. of['last-delivered-id']
    end
  end
  return redis.call('XRANGE', stream, after, last or '+', 'COUNT', count)
end

-- Acknowledges and deletes together, so that XLEN is the depth and no counter can drift.
local function remove(prefix, lane, entry)
  local stream = key(prefix, 'stream', lane)
  redis.call('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

-- The news of a closed job is to be delivered to somebody: noted with the close itself, so that it
-- is not lost whoever dies, and the job is kept until it is settled. Due after delay_ms; life_ms from
-- now, for there may be a line.
local function deliver(prefix, id, delay_ms, life_ms)
  local waiting_list, due_ms = prefix .. 'deliveries', digits(now_ms() + delay_ms)
  redis.call('ZADD', waiting_list, due_ms, id)
  keep(waiting_list, life_ms)
  redis.call('HSET', key(prefix, 'job', id), 'delivery_due_ms', due_ms)
  for _, kind in ipairs({'job', 'out', 'att'}) do
    keep(key(prefix, kind, id), life_ms)
  end
  if delay_ms == 0 then
    redis.call('PUBLISH', DELIVERIES, '')
  end
end

-- Tells everybody that a job is closed.
local function tell(prefix, id, ttl_ms)
  local delivery_life_ms = redis.call('HGET', key(prefix, 'job', id), 'delivery_life_ms')
  if delivery_life_ms then
    deliver(prefix, id, 0, math.max(tonumber(delivery_life_ms), tonumber(ttl_ms)))
  end
  redis.call('PUBLISH', DONE, id)
end

-- The one way of a job that was in the queue into a terminal state.
local function close(prefix, id, lane, entry, state, ttl_ms, failure)
  local job, completed_ms = key(prefix, 'job', id), digits(now_ms())
  redis.call('HSET', job, 'state', state, 'completed_ms', completed_ms)
  if failure and failure ~= '' then
    redis.call('HSET', job, 'failure', failure)
  end
  redis.call('PEXPIRE', job, ttl_ms)
  redis.call('PEXPIRE', key(prefix, 'att', id), ttl_ms)
  if state == 'dead' then
    redis.call('PEXPIRE', key(prefix, 'in', id), ttl_ms) -- for a replay by hand
  else
    redis.call('DEL', key(prefix, 'in', id))
  end
  remove(prefix, lane, entry)
  count(prefix, 'jobs|' .. state)
  tell(prefix, id, ttl_ms)
end

-- Puts a delivered entry back for others. What had begun waits in a lane of its own, because a
-- redelivered job runs alone; what had not begun is as good as new. Either keeps its device.
-- how: what ended an attempt that had begun, 'death' of its worker or 'lease' that ran out.
local function requeue(prefix, lane, entry, id, ttl_ms, how)
  local job = key(prefix, 'job', id)
  local state, current, priority, begun, weight = unpack(redis.call(
    'HMGET', job, 'state', 'entry', 'priority', 'begun', 'weight'))
  remove(prefix, lane, entry)
  if not OPEN[state] or current ~= entry then
    return 0
  end
  if state == 'running' and how and begun then
    redis.call('HSET', job, 'begun', begun .. ' ' .. digits(now_ms()) .. ' ' .. how)
  end
  if state == 'running' then
    count(prefix, 'job_redeliveries')
  end
  local device = string.match(lane, '@.+') or ''
  local to = (state == 'queued' and priority or 'redelivered') .. device
  local again = add(prefix, to, id, math.max(redis.call('PTTL', job), ttl_ms), weight or 1)
  redis.call('HSET', job, 'entry', again, 'lane', to)
  return 1
end
