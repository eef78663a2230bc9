-- What the steps of a queue share. Each step is one script and therefore atomic: this file, the file that holds the
-- step, and a call of it. Before this file stand `now`, the server's clock in milliseconds, and the numbers of base.py.
--
-- The keys of a queue begin with audio_api:{queue}: and are in one hash slot.
--   meta        hash: the last number given out, totals, turns, the end of a restart's grace period
--   wait        sorted set: the jobs that wait, by priority and number; those handed back come first
--   delayed     sorted set: jobs that wait for their time, by that time
--   leases      sorted set: jobs handed out, by the end of their lease
--   dead        sorted set: dead letters, by when
--   recent      sorted set: the latest finished jobs, by when
--   live        sorted set: the jobs that are not finished, from which a lost line is made again
--   wake        list: at most one token, popped by the worker that looks next
--   job:<id>    hash: the job and what became of it; it expires with its result
--   batch:<id>  hash: counters; and :jobs, the list of its ids
--   stage:<n>   list: jobs of a large call to enqueue; arrivals names the calls that were accepted
--   reply:<n>   string: what a lease call took, in case its reply is lost
--   workers     sorted set: the workers here, by when they last said so
--   counts      hash: what all of them have counted, until it is not used for a month; counts:<n> since a day began
--   done        channel: "job <id>" and "batch <id>" when one ends
--
-- Other programs write into the same Redis, and a full one may evict any key. A key, a name or a field that cannot be
-- right is put among the dead letters, and what is missing is made again. A script that fails leaves nothing half done:
-- Redis refuses it, as a replica or for want of memory, at its first write. A full Redis takes no new jobs and lets
-- those it has be done, which frees memory.

local q, call, steps = KEYS[1], redis.call, {}
local meta, wait, delayed, leases = q .. ':meta', q .. ':wait', q .. ':delayed', q .. ':leases'
local dead, live, wake, arrivals = q .. ':dead', q .. ':live', q .. ':wake', q .. ':arrivals'
local recent = q .. ':recent'

-- The scores of `wait` have a band for each priority; a job's place in its band is its number.
local BAND, PRIORITIES = 2 ^ 44, 100
local END = (2 * PRIORITIES + 2) * BAND - 1
-- Most jobs moved in one step, so that no script holds the server for longer than some 20 ms.
local AT_ONCE = 200
-- No grace lasts for longer.
local DAY_MS = 86400000
local ENDS = {'succeeded', 'failed', 'cancelled', 'dead'}
local OVER = {succeeded = true, failed = true, cancelled = true, dead = true}
local OPEN = {queued = true, delayed = true, leased = true, staged = true}

local function job_key(id) return q .. ':job:' .. id end
local function batch_key(id) return q .. ':batch:' .. id end
local function stage_key(name) return q .. ':stage:' .. name end
local function number() return call('HINCRBY', meta, 'number', 1) end

-- A whole number within bounds, of which a double loses no digit; nil for anything else.
local function whole(value, least, most)
  local found = value and tostring(value):match('^%-?%d+$') and tonumber(value)
  return found and found >= (least or 0) and found <= (most or 9e15) and found or nil
end

local put_aside

-- Reads a key of this queue; one of another kind, which another program has written, is put aside first.
local function read(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if answer.err:find('WRONGTYPE') then put_aside(key) end
  return call(command, key, ...)
end

-- After a first write that needs no memory, Redis lets the others of a script pass.
local function despite_full_memory() call('DEL', q .. ':nothing') end

-- Brings what is there for the whole queue into a state in which no step can fail; the sizes of its keys.
local function mend()
  local size = {}
  for _, key in ipairs({wait, delayed, leases, live}) do size[key] = read('ZCARD', key) end
  for _, key in ipairs({wake, arrivals}) do size[key] = read('LLEN', key) end
  local names = {'number', 'turns', 'grace', unpack(ENDS)}
  local most = {number = BAND - 1, grace = now + DAY_MS}
  local known = read('HMGET', meta, unpack(names))
  for i, name in ipairs(names) do
    if known[i] and not whole(known[i], 0, most[name]) then
      call('HDEL', meta, name)
      known[i] = false
    end
  end
  -- A number that was lost was lower: it had been counted from an earlier moment.
  if not known[1] then call('HSET', meta, 'number', now) end
  return size
end

local function ring()
  if call('LLEN', wake) == 0 then call('RPUSH', wake, '1') end
end

local function wait_in_band(id, band)
  local place = number()
  call('HSET', job_key(id), 'state', 'queued')
  call('ZADD', wait, band * BAND + place, id)
  call('ZADD', live, place, id)
  ring()
end

-- A job goes behind those of its priority, or waits for its time.
local function place(id, priority, due)
  if not due or due <= now then return wait_in_band(id, PRIORITIES + 1 - priority) end
  call('HSET', job_key(id), 'state', 'delayed', 'due', due)
  call('ZADD', delayed, due, id)
  call('ZADD', live, number(), id)
  ring()
end

local function leave(id)
  for _, key in ipairs({wait, delayed, leases, live}) do call('ZREM', key, id) end
end

-- Whether there is such a batch; counters that are gone, or that cannot be right, are made again from its jobs.
local function has_counters(batch)
  if not batch or batch == '' then return false end
  local known = read('HMGET', batch_key(batch), 'total', unpack(ENDS))
  local right = whole(known[1], 1)
  for i = 2, #known do right = right and (not known[i] or whole(known[i])) end
  if right then return true end
  local ids = read('LRANGE', batch_key(batch) .. ':jobs', 0, -1)
  call('DEL', batch_key(batch))
  if #ids == 0 then return false end
  call('HSET', batch_key(batch), 'total', #ids, 'started', 1)
  for _, id in ipairs(ids) do
    local state = read('HGET', job_key(id), 'state')
    if OVER[state] then call('HINCRBY', batch_key(batch), state, 1) end
  end
  return true
end

local function is_complete(batch)
  local counts = call('HMGET', batch_key(batch), 'total', unpack(ENDS))
  local sum = 0
  for i = 2, #counts do sum = sum + (tonumber(counts[i]) or 0) end
  return sum == tonumber(counts[1])
end

-- Applies something to a batch and its results, which expire together. Dead letters stay.
local function for_batch(batch, apply)
  apply(batch_key(batch))
  apply(batch_key(batch) .. ':jobs')
  for _, id in ipairs(read('LRANGE', batch_key(batch) .. ':jobs', 0, -1)) do
    if read('HGET', job_key(id), 'state') ~= 'dead' then apply(job_key(id)) end
  end
end

-- Ends a job: its state, the counters and the news belong together.
local function settle(id, state, batch, ttl, ...)
  local in_batch = has_counters(batch)
  leave(id)
  call('HSET', job_key(id), 'state', state, 'finished', now, ...)
  call('HINCRBY', meta, state, 1)
  read('ZADD', recent, now, id)
  call('ZREMRANGEBYRANK', recent, 0, -MOST_RECENT - 1)
  if in_batch then
    call('HINCRBY', batch_key(batch), state, 1)
    if is_complete(batch) then for_batch(batch, function(key) call('PEXPIRE', key, ttl) end) end
    call('PUBLISH', q .. ':done', 'batch ' .. batch)
  elseif state ~= 'dead' then
    call('PEXPIRE', job_key(id), ttl)
  end
  call('PUBLISH', q .. ':done', 'job ' .. id)
end

local function bury(id, reason, batch, ttl)
  read('ZCARD', dead)
  call('ZADD', dead, now, id)
  settle(id, 'dead', batch, ttl, 'reason', reason)
end

-- Puts what is not of this queue where a person can see it.
local function bury_foreign(name, content, reason)
  local id = 'foreign-' .. redis.sha1hex(name .. now):sub(1, 16)
  call('HSET', job_key(id), 'payload', content:sub(1, 10000), 'deliveries', 0, 'enqueued', now)
  bury(id, reason)
end

put_aside = function(key)
  local content = redis.pcall('GET', key)
  call('DEL', key)
  mend()
  bury_foreign(key, type(content) == 'string' and content or '',
    'the key ' .. key:sub(1, 200) .. ' was of another kind than this queue makes it')
end

-- Why a job cannot be handed out, or nothing; its state; and how often it was delivered.
local function examine(id)
  local known = read('HMGET', job_key(id), 'payload', 'priority', 'deliveries', 'enqueued', 'progress', 'state')
  local state, odd = known[6], nil
  if OVER[state] then return nil, state end
  if not known[1] then odd = 'its payload is gone'
  elseif not whole(known[2], -PRIORITIES, PRIORITIES) then odd = 'its priority is no number from -100 to 100'
  elseif known[3] and not whole(known[3]) then odd = 'its count of deliveries is no number'
  elseif not whole(known[4]) then odd = 'the time at which it was accepted is no number'
  elseif known[5] and not pcall(cjson.decode, known[5]) then odd = 'its progress note is no JSON'
  elseif not OPEN[state] then odd = 'its state is gone or unknown' end
  return odd, state, whole(known[3]) or 0
end

-- Puts a name aside that cannot be handed out: that of a damaged job, or one that is no id at all.
local function condemn(id, reason, ttl)
  leave(id)
  if #id > 64 or not id:match('^[%w_-]+$') then
    bury_foreign(id, id, 'the name ' .. id:sub(1, 80):gsub('[^%w%p ]', '?') .. ' is no job of this queue')
  else
    bury(id, 'it was damaged in Redis: ' .. reason, read('HGET', job_key(id), 'batch'), ttl)
  end
end

-- Lets jobs of accepted calls wait, so many at most.
local function arrive(most)
  while most > 0 do
    local stage = call('LINDEX', arrivals, 0)
    if not stage then return end
    local ids = read('LRANGE', stage_key(stage), 0, most - 1)
    for _, id in ipairs(ids) do
      local known = read('HMGET', job_key(id), 'state', 'stage', 'priority', 'due')
      if known[1] == 'staged' and known[2] == stage then
        call('PERSIST', job_key(id))
        if not examine(id) then place(id, known[3], tonumber(known[4] or '')) end
      end
    end
    call('LTRIM', stage_key(stage), #ids, -1)
    if #ids < most then call('LPOP', arrivals) end
    most = most - math.max(1, #ids)
  end
end

local function exhume(id, batch)
  if read('ZREM', dead, id) == 0 then return end
  read('ZREM', recent, id)
  call('HDEL', job_key(id), 'reason', 'finished')
  if has_counters(batch) then
    if whole(call('HGET', batch_key(batch), 'dead'), 1) then call('HINCRBY', batch_key(batch), 'dead', -1) end
    for_batch(batch, function(key) call('PERSIST', key) end)
  end
end

-- A lease ended without a result: the job comes first, unless it has run out of leases too often.
local function hand_back(id, ttl)
  local known = read('HMGET', job_key(id), 'deliveries', 'batch')
  local deliveries = whole(known[1]) or 0
  call('ZREM', leases, id)
  if deliveries >= MAX_DELIVERIES then
    bury(id, NEVER_FINISHED:format(deliveries), known[2], ttl)
  else
    wait_in_band(id, 0)
  end
end

local function holds(id, token)
  local known = read('HMGET', job_key(id), 'state', 'token')
  return known[1] == 'leased' and known[2] == token
end

-- The first job of each priority that waits, with its band and its number.
local function heads()
  local found, band = {}, 1
  while band <= 2 * PRIORITIES + 1 do
    local first = call('ZRANGEBYSCORE', wait, band * BAND, END, 'WITHSCORES', 'LIMIT', 0, 1)
    if not first[1] then break end
    band = math.floor(first[2] / BAND)
    found[#found + 1] = {id = first[1], band = band, number = first[2] - band * BAND}
    band = band + 1
  end
  return found
end
