"""The steps of a queue in Redis, each one Lua script and therefore atomic.

Keys, all in the hash slot of ``{queue}``:

    audio_api:{queue}:meta          hash: the last number given out, totals, turns, the end of a restart's grace period
    audio_api:{queue}:bands         sorted set: the priorities that have a stream
    audio_api:{queue}:band:<n>      stream of priority n, group "workers": jobs that wait or are leased, in order
    audio_api:{queue}:returned      list: jobs handed back, still in their stream's pending list, that come first
    audio_api:{queue}:delayed       sorted set: jobs that wait for their time, by that time
    audio_api:{queue}:leases        sorted set: jobs handed out, by the end of their lease
    audio_api:{queue}:dead          sorted set: dead letters, by when
    audio_api:{queue}:wake          list: at most one token, popped by the worker that looks next
    audio_api:{queue}:job:<id>      hash: the job and what became of it; expires with its result
    audio_api:{queue}:batch:<id>    hash: counters; and :jobs, the list of its ids
    audio_api:{queue}:live          sorted set: the jobs that are not finished, from which lost lines are made again
    audio_api:{queue}:stage:<call>  list: jobs of a large call to enqueue; :stages and :arrivals name the calls
    audio_api:{queue}:reply:<call>  string: what a lease call took, in case its reply is lost
    audio_api:{queue}:gate:<model>  hash: until when nobody calls this model; :calls, :today and :limit bound them
    audio_api:{queue}:done          channel: "job <id>" and "batch <id>" when one ends

Other programs write into the same Redis, and a full one may evict any key: a key, an entry or a field that cannot be
right is put among the dead letters, and what is missing is made again. A script that fails leaves nothing half done:
Redis refuses it, as a replica or for want of memory, at its first write. A full Redis takes no new jobs and lets those
it has be done, which frees memory. Times are milliseconds of Redis' own clock. An entry's stream id is a number of the
queue, so that the entries of all streams have one order.
"""

from __future__ import annotations

import pkgutil

from audio_api.queues.base import FAIR_TURN, MAX_DELIVERIES, NEVER_FINISHED

CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Most jobs moved in one step, so that no script holds the server for longer than some 20 ms.
_AT_ONCE = 200
# A call to enqueue that has staged jobs and accepted none for so long has died.
_ABANDONED_MS = 3_600_000
# No gate is closed, and no grace lasts, beyond a day and an hour: the longest days have 25 hours.
_FARTHEST_MS = 26 * 3_600_000
# Most bytes of payloads in one answer, unless a single one is larger.
_PAGE_BYTES = 1_000_000

_COMMON = f"""
local q = KEYS[1]
local call = redis.call
local meta, bands, leases, delayed = q .. ':meta', q .. ':bands', q .. ':leases', q .. ':delayed'
local returned, dead, wake = q .. ':returned', q .. ':dead', q .. ':wake'
local live, arrivals, stages = q .. ':live', q .. ':arrivals', q .. ':stages'

local function job_key(id) return q .. ':job:' .. id end
local function batch_key(id) return q .. ':batch:' .. id end
local function band_key(priority) return q .. ':band:' .. priority end
local function stage_key(name) return q .. ':stage:' .. name end
local function number() return call('HINCRBY', meta, 'number', 1) end

-- A whole number within bounds, of which a double loses no digit; nil for anything else.
local function whole(value, least, most)
  local found = value and tostring(value):match('^%-?%d+$') and tonumber(value)
  return found and found >= (least or 0) and found <= (most or 9e15) and found or nil
end

local put_aside

-- Reads a key of this queue; one of another kind, which a stranger has written, is put aside first.
local function read(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    if answer.err:find('WRONGTYPE') then put_aside(key) end
    return call(command, key, ...)
  end
  return answer
end

-- After a first write that needs no memory, Redis lets the others of a script pass.
local function despite_full_memory() call('DEL', q .. ':nothing') end

local function ring()
  if call('LLEN', wake) == 0 then call('RPUSH', wake, '1') end
end

-- The last entry of a line that was given out; nothing when the line, or its group, is gone.
local function last_delivered(band)
  local groups = redis.pcall('XINFO', 'GROUPS', band)
  for _, group in ipairs(groups.err and {{}} or groups) do
    local of = {{}}
    for i = 1, #group, 2 do of[group[i]] = group[i + 1] end
    if of.name == 'workers' then return of['last-delivered-id'] end
  end
end

local function open_line(priority)
  local band = band_key(priority)
  call('ZADD', bands, priority, priority)
  if not last_delivered(band) then
    read('XLEN', band)
    redis.pcall('XGROUP', 'CREATE', band, 'workers', '0', 'MKSTREAM')
  end
end

-- Adds an entry behind all others, also behind one of a stranger with a higher number.
local function append(band, id)
  local entry = string.format('%d-0', number())
  local added = redis.pcall('XADD', band, entry, 'job', id)
  if type(added) == 'string' then return entry end
  if not (added.err:find('ID') or added.err:find('WRONGTYPE')) then call('XADD', band, entry, 'job', id) end
  read('XLEN', band)
  local highest
  for i, value in ipairs(redis.pcall('XINFO', 'STREAM', band)) do
    if value == 'last-generated-id' then highest = i + 1 end
  end
  highest = highest and whole(redis.pcall('XINFO', 'STREAM', band)[highest]:match('^%d+'), 0, 4e15)
  if highest then call('HSET', meta, 'number', highest) else call('DEL', band) end
  entry = string.format('%d-0', number())
  call('XADD', band, entry, 'job', id)
  return entry
end

local function wait_in_line(id, priority)
  if not call('ZSCORE', bands, priority) then open_line(priority) end
  local entry = append(band_key(priority), id)
  call('HSET', job_key(id), 'state', 'queued', 'entry', entry)
  call('ZADD', live, entry:match('^%d+'), id)
  ring()
end

local function wait_for_time(id, due)
  call('HSET', job_key(id), 'state', 'delayed', 'entry', '', 'due', due)
  call('ZADD', delayed, due, id)
  call('ZADD', live, number(), id)
end

local function leave(id, priority, entry)
  if whole(priority, -100, 100) and entry and entry ~= '' then
    redis.pcall('XACK', band_key(priority), 'workers', entry)
    redis.pcall('XDEL', band_key(priority), entry)
  end
  call('ZREM', leases, id)
end

local ENDS = {{'succeeded', 'failed', 'cancelled', 'dead'}}

local function ended(batch)
  local counts = call('HMGET', batch_key(batch), 'total', unpack(ENDS))
  local sum = 0
  for i = 2, #counts do sum = sum + (tonumber(counts[i]) or 0) end
  return sum == tonumber(counts[1])
end

-- Whether a batch has counters: 'intact', or 'counted' when they had to be made again from its jobs.
local function counters(batch)
  if not batch or batch == '' then return end
  local known = read('HMGET', batch_key(batch), 'total', unpack(ENDS))
  local intact = whole(known[1], 1)
  for i = 2, #known do intact = intact and (not known[i] or whole(known[i])) end
  if intact then return 'intact' end
  local ids = read('LRANGE', batch_key(batch) .. ':jobs', 0, -1)
  call('DEL', batch_key(batch))
  if #ids == 0 then return end
  call('HSET', batch_key(batch), 'total', #ids, 'started', 1)
  for _, id in ipairs(ids) do
    local state = read('HGET', job_key(id), 'state')
    for _, final in ipairs(ENDS) do
      if state == final then call('HINCRBY', batch_key(batch), state, 1) end
    end
  end
  return 'counted'
end

local function for_batch(batch, apply)
  apply(batch_key(batch))
  apply(batch_key(batch) .. ':jobs')
  for _, id in ipairs(read('LRANGE', batch_key(batch) .. ':jobs', 0, -1)) do
    if read('HGET', job_key(id), 'state') ~= 'dead' then apply(job_key(id)) end
  end
end

-- Result, counters and acknowledgement belong together: this follows the HSET of a final state.
local function settle(id, state, batch, ttl)
  call('HINCRBY', meta, state, 1)
  call('ZREM', live, id)
  local counted = counters(batch)
  if counted then
    if counted == 'intact' then call('HINCRBY', batch_key(batch), state, 1) end
    if ended(batch) then for_batch(batch, function(key) call('PEXPIRE', key, ttl) end) end
    call('PUBLISH', q .. ':done', 'batch ' .. batch)
  elseif state ~= 'dead' then
    call('PEXPIRE', job_key(id), ttl)
  end
  call('PUBLISH', q .. ':done', 'job ' .. id)
end

local function bury(id, reason, batch, ttl)
  call('HSET', job_key(id), 'state', 'dead', 'reason', reason, 'finished', now, 'entry', '')
  call('ZADD', dead, now, id)
  settle(id, 'dead', batch, ttl)
end

-- Puts aside what is not of this queue, or not any more, with what is known of it.
local function bury_stranger(name, content, reason)
  local id = 'foreign-' .. redis.sha1hex(name .. now):sub(1, 16)
  call('HSET', job_key(id), 'payload', content, 'deliveries', 0, 'enqueued', now, 'foreign', 1)
  bury(id, reason, false, 0)
end

put_aside = function(key)
  local content = redis.pcall('GET', key)
  for _, needed in ipairs({{key, meta, dead, live}}) do
    local kind = needed == meta and 'HLEN' or 'ZCARD'
    if needed == key or type(redis.pcall(kind, needed)) == 'table' then call('DEL', needed) end
  end
  bury_stranger(key, type(content) == 'string' and content:sub(1, 10000) or '',
    'the key ' .. key:sub(1, 200) .. ' was of another kind than this queue makes it')
end

-- Brings what is there for the whole queue into a state in which no step can fail.
local function mend()
  for key, size in pairs({{[meta] = 'HLEN', [bands] = 'ZCARD', [leases] = 'ZCARD', [delayed] = 'ZCARD',
    [dead] = 'ZCARD', [live] = 'ZCARD', [stages] = 'ZCARD', [returned] = 'LLEN', [wake] = 'LLEN',
    [arrivals] = 'LLEN'}}) do read(size, key) end
  local names = {{'number', 'turns', 'succeeded', 'failed', 'cancelled', 'dead', 'grace'}}
  local known = call('HMGET', meta, unpack(names))
  for i, name in ipairs(names) do
    if known[i] and not whole(known[i], 0, name == 'grace' and now + {_FARTHEST_MS} or 4e15) then
      call('HDEL', meta, name)
      known[i] = false
    end
  end
  -- The number that was lost was lower: it had been counted from one, or from an earlier moment.
  if not known[1] and call('ZCARD', live) + call('ZCARD', leases) + call('ZCARD', bands) + call('ZCARD', dead) > 0 then
    call('HSET', meta, 'number', now)
  end
end

-- Why a job cannot be handed out; nothing when it can.
local function oddity(id)
  local known = read('HMGET', job_key(id), 'payload', 'priority', 'deliveries', 'enqueued', 'progress', 'state')
  if not known[1] then return 'its payload is gone' end
  if not whole(known[2], -100, 100) then return 'its priority is no number from -100 to 100' end
  if known[3] and not whole(known[3]) then return 'its count of deliveries is no number' end
  if not whole(known[4]) then return 'the time at which it was accepted is no number' end
  if known[5] and not pcall(cjson.decode, known[5]) then return 'its progress note is no JSON' end
  if not known[6] then return 'its state is gone' end
end

-- Puts a job of ours aside that cannot be handed out.
local function condemn(id, reason, ttl)
  local known = read('HMGET', job_key(id), 'batch', 'priority', 'entry')
  leave(id, known[2], known[3])
  call('ZREM', delayed, id)
  bury(id, 'it was damaged in Redis: ' .. reason, known[1], ttl)
end

-- What to do with a name that is in line and has no job: one of ours was lost, another one is a stranger's.
local function lost(id, ttl)
  if call('ZSCORE', live, id) then
    condemn(id, oddity(id) or 'its state is unknown', ttl)
  else
    call('ZREM', leases, id)
    bury_stranger(id, id:sub(1, 10000), 'the name ' .. id:sub(1, 80) .. ' is no job of this queue')
  end
end

-- The priorities that have a line, highest first.
local function open_lines()
  local found = {{}}
  for _, name in ipairs(call('ZREVRANGE', bands, 0, -1)) do
    local priority = whole(name, -100, 100)
    if priority and string.format('%d', priority) == name then
      open_line(name)
      found[#found + 1] = name
    else
      call('ZREM', bands, name)
    end
  end
  return found
end

local function waiting_count()
  local waiting = call('ZCARD', delayed) - call('ZCARD', leases)
  for _, priority in ipairs(open_lines()) do waiting = waiting + call('XLEN', band_key(priority)) end
  for _, stage in ipairs(call('LRANGE', arrivals, 0, -1)) do waiting = waiting + read('LLEN', stage_key(stage)) end
  return waiting
end

local function place(id, priority, due)
  if due and due > now then wait_for_time(id, due) else wait_in_line(id, priority) end
end

-- Lets jobs of accepted stages wait.
local function arrive(most)
  while most > 0 do
    local stage = call('LINDEX', arrivals, 0)
    if not stage then return end
    local ids = read('LRANGE', stage_key(stage), 0, most - 1)
    for _, id in ipairs(ids) do
      local known = read('HMGET', job_key(id), 'state', 'priority', 'due')
      if known[1] == 'staged' and whole(known[2], -100, 100) then place(id, known[2], tonumber(known[3] or '')) end
    end
    if #ids == 0 then
      call('LPOP', arrivals)
      call('DEL', stage_key(stage))
    else
      call('LTRIM', stage_key(stage), #ids, -1)
    end
    most = most - math.max(1, #ids)
  end
end

-- Takes back jobs of a stage that was not accepted; whether there are more.
local function unstage(stage, most)
  if not call('ZSCORE', stages, stage) then return 0 end
  local ids = read('LRANGE', stage_key(stage), 0, most - 1)
  for _, id in ipairs(ids) do
    if read('HGET', job_key(id), 'state') == 'staged' and call('HINCRBY', job_key(id), 'stages', -1) <= 0 then
      call('DEL', job_key(id))
    end
  end
  call('LTRIM', stage_key(stage), #ids, -1)
  if #ids == most then return 1 end
  call('ZREM', stages, stage)
  return 0
end

local function exhume(id, batch)
  if call('ZREM', dead, id) == 0 then return end
  call('HDEL', job_key(id), 'reason', 'finished')
  if counters(batch) then
    if whole(call('HGET', batch_key(batch), 'dead'), 1) then call('HINCRBY', batch_key(batch), 'dead', -1) end
    for_batch(batch, function(key) call('PERSIST', key) end)
  end
end

-- The job's batch, priority and entry while this token holds it; nothing for a stale one.
local function held(id, token)
  local known = read('HMGET', job_key(id), 'state', 'token', 'priority', 'entry', 'batch', 'deliveries')
  if known[1] == 'leased' and known[2] == token then
    return {{priority = known[3], entry = known[4], batch = known[5], deliveries = whole(known[6]) or 1}}
  end
end

-- Many calls in one step: how many arguments each has, and what answers it.
local function each(width, answer)
  local answers = {{}}
  for i = 2, #ARGV, width do answers[#answers + 1] = answer(unpack(ARGV, i, i + width - 1)) end
  return answers
end

-- Ends a lease, unless it is stale; a call that is repeated is told that it did it.
local function end_lease(id, token, this_call, apply)
  local lease = held(id, token)
  if not lease then return call('HGET', job_key(id), 'call') == this_call and 1 or 0 end
  call('HSET', job_key(id), 'call', this_call)
  apply(lease)
  return 1
end

local function hand_back(id, lease, ttl)
  if lease.deliveries >= {MAX_DELIVERIES} then
    leave(id, lease.priority, lease.entry)
    bury(id, string.format('{NEVER_FINISHED}', lease.deliveries), lease.batch, ttl)
  else
    call('HSET', job_key(id), 'state', 'queued', 'token', '')
    call('ZREM', leases, id)
    call('RPUSH', returned, id)
    ring()
  end
end

local function lines(priorities)
  local found = {{}}
  for _, priority in ipairs(priorities) do
    local band = band_key(priority)
    local head = call('XRANGE', band, '(' .. (last_delivered(band) or '0'), '+', 'COUNT', 1)[1]
    if head then found[#found + 1] = {{priority = priority, band = band, entry = head[1], fields = head[2]}} end
  end
  return found
end
"""

_ENQUEUE_FUNCTIONS = """
-- Whether a job may be accepted: it is 'new', or 'known' as the same, or 'other', with another payload or batch.
local function acquaintance(id, payload, batch)
  local known = read('HMGET', job_key(id), 'state', 'payload', 'digest', 'batch')
  local same = (known[4] or '') == batch and (known[2] == payload or known[3] == redis.sha1hex(payload))
  if not known[1] or (known[1] == 'staged' and same) then return 'new' end
  return same and 'known' or 'other'
end
"""

ENQUEUE = f"""
{_ENQUEUE_FUNCTIONS}
mend()
local batch, max_size = ARGV[1], tonumber(ARGV[2])
local fresh, ids = {{}}, {{}}
for i = 3, #ARGV, 4 do
  local id = ARGV[i]
  local found = acquaintance(id, ARGV[i + 1], batch)
  if found == 'other' then return {{'job', id}} end
  if found == 'new' then fresh[#fresh + 1] = i end
  ids[#ids + 1] = id
end
local listed = batch ~= '' and read('LRANGE', batch_key(batch) .. ':jobs', 0, -1) or {{}}
if #listed > 0 and table.concat(listed, ' ') ~= table.concat(ids, ' ') then return {{'batch', batch}} end
if max_size and #fresh > 0 then
  local waiting = waiting_count()
  if waiting + #fresh > max_size then return {{'full', waiting, #fresh}} end
end
for _, i in ipairs(fresh) do
  local id, payload, priority, due = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  -- First, because a full Redis refuses a script at its first write, unless that is one that deletes.
  call('HSET', job_key(id), 'payload', payload, 'priority', priority, 'enqueued', now)
  call('HDEL', job_key(id), 'deliveries', 'progress', 'stages', 'reason', 'finished', 'result', 'digest', 'due')
  if batch ~= '' then call('HSET', job_key(id), 'batch', batch) end
  place(id, priority, due)
end
if batch ~= '' and #listed == 0 then
  read('HLEN', batch_key(batch))
  call('HSET', batch_key(batch), 'total', #ids)
  for _, id in ipairs(ids) do call('RPUSH', batch_key(batch) .. ':jobs', id) end
end
if #fresh > 0 then ring() end
return {{'ok'}}
"""

# A large call is staged in steps and accepted in one, so that no step holds the server for long.
STAGE = f"""
{_ENQUEUE_FUNCTIONS}
mend()
local stage, start, total, max_size = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if start == 0 then
  local waiting = max_size and waiting_count()
  if waiting and waiting + total > max_size then return {{'full', waiting, total}} end
elseif not call('ZSCORE', stages, stage) then
  return {{'gone'}}
end
-- A step that is repeated, because its reply was lost, was done.
if read('LLEN', stage_key(stage)) > start then return {{'ok'}} end
local found = {{}}
for i = 5, #ARGV, 4 do
  found[i] = acquaintance(ARGV[i], ARGV[i + 1], '')
  if found[i] == 'other' then return {{'job', ARGV[i]}} end
end
call('ZADD', stages, now, stage)
for i = 5, #ARGV, 4 do
  local id, payload, priority, due = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if found[i] == 'new' then
    call('HSET', job_key(id), 'payload', payload, 'priority', priority, 'enqueued', now, 'due', due, 'state', 'staged')
    call('HINCRBY', job_key(id), 'stages', 1)
  end
  call('RPUSH', stage_key(stage), id)
end
return {{'ok'}}
"""

ACCEPT = """
mend()
local stage, total, max_size = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
-- As above: it was accepted.
if not call('ZSCORE', stages, stage) then return {'ok'} end
local waiting = max_size and waiting_count()
if waiting and waiting + total > max_size then return {'full', waiting, total} end
call('RPUSH', arrivals, stage)
call('ZREM', stages, stage)
ring()
return {'ok'}
"""

ARRIVE = f"""
mend()
arrive({_AT_ONCE})
return call('LLEN', arrivals)
"""

UNSTAGE = f"""
mend()
return unstage(ARGV[1], {_AT_ONCE})
"""

LEASE = f"""
local most, lease_ms, consumer, this_call = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], q .. ':reply:' .. ARGV[4]
local reclaim, ttl, spare, just_restarted = ARGV[5], ARGV[6], ARGV[7], ARGV[8] == '1'
local taken, receipt = {{}}, {{}}

local function show(id, token)
  local known = call('HMGET', job_key(id), 'payload', 'priority', 'batch', 'deliveries', 'progress')
  taken[#taken + 1] = {{id, known[1], known[2], known[3] or '', token, known[4], known[5] or ''}}
end

local function grant(id)
  local reason = oddity(id)
  if reason then return condemn(id, reason, ttl) end
  local token, batch = number(), call('HGET', job_key(id), 'batch')
  local last = call('HINCRBY', job_key(id), 'deliveries', 1) >= {MAX_DELIVERIES}
  if last then call('HSET', job_key(id), 'spared', spare) end
  call('HSET', job_key(id), 'state', 'leased', 'token', token, 'started', now, 'lasts', lease_ms)
  call('ZADD', leases, now + lease_ms, id)
  call('ZADD', live, token, id)
  if batch and read('HLEN', batch_key(batch)) > 0 then call('HSET', batch_key(batch), 'started', 1) end
  receipt[#receipt + 1] = id .. ' ' .. token
  show(id, token)
end

-- Somebody else's entries have no job: they are kept, where a person can see them.
local function quarantine(band, entry, fields)
  local id = 'foreign-' .. entry
  call('HSET', job_key(id), 'payload', table.concat(fields, ' '), 'deliveries', 0, 'enqueued', now, 'foreign', 1)
  call('XACK', band, 'workers', entry)
  call('XDEL', band, entry)
  bury(id, 'the stream entry ' .. entry .. ' is not a job of this queue', false, ttl)
end

local function deliver(line, count)
  local delivered = call('XREADGROUP', 'GROUP', 'workers', consumer, 'COUNT', count, 'STREAMS', line.band, '>')
  for _, entry in ipairs(delivered and delivered[1][2] or {{}}) do
    local id = entry[2][1] == 'job' and entry[2][2]
    local known = id and read('HMGET', job_key(id), 'entry', 'state')
    local own = known and (known[1] == entry[1] or not known[1])
    if own and known[2] == 'queued' then
      call('HSET', job_key(id), 'entry', entry[1])
      grant(id)
    elseif own and not known[2] and call('ZSCORE', live, id) then
      call('XACK', line.band, 'workers', entry[1])
      call('XDEL', line.band, entry[1])
      lost(id, ttl)
    elseif not (own and known[2] == 'leased') then
      -- One that is leased is here again because its group was lost: its holder goes on.
      quarantine(line.band, entry[1], entry[2])
    end
  end
end

local function choose(waiting)
  if #waiting == 1 then return waiting[1], most - #taken end
  local chosen = waiting[1]
  if call('HINCRBY', meta, 'turns', 1) % {FAIR_TURN} == 0 then
    for _, line in ipairs(waiting) do
      if tonumber(line.entry:match('^%d+')) < tonumber(chosen.entry:match('^%d+')) then chosen = line end
    end
  end
  return chosen, 1
end

despite_full_memory()
mend()
for id, token in (read('GET', this_call) or ''):gmatch('(%S+) (%S+)') do
  if held(id, token) then
    call('ZADD', leases, now + lease_ms, id)
    show(id, token)
  end
end
if #taken > 0 then return {{'leases', taken, 0}} end
if just_restarted then call('HSET', meta, 'grace', now + lease_ms) end
for _, id in ipairs(call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, {_AT_ONCE})) do
  call('ZREM', delayed, id)
  local known = read('HMGET', job_key(id), 'state', 'priority')
  if known[1] == 'delayed' and whole(known[2], -100, 100) then
    wait_in_line(id, known[2])
  elseif not known[1] or known[1] == 'delayed' then
    lost(id, ttl)
  end
end
arrive({_AT_ONCE})
-- When the clock went back, a lease must not last for as long again.
for _, id in ipairs(call('ZREVRANGEBYSCORE', leases, '+inf', now + lease_ms + 1000, 'LIMIT', 0, {_AT_ONCE})) do
  local ends = now + (whole(read('HGET', job_key(id), 'lasts'), 1) or lease_ms)
  if tonumber(call('ZSCORE', leases, id)) > ends + 1000 then call('ZADD', leases, ends, id) end
end
local runs_out = reclaim ~= 'never' and tonumber(call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2])
if runs_out then runs_out = math.max(runs_out, tonumber(call('HGET', meta, 'grace') or 0)) end
if reclaim == 'first' and runs_out and runs_out <= now then return {{'expired'}} end

while #taken < most do
  local id = call('LINDEX', returned, 0)
  if not id then break end
  call('LPOP', returned)
  local known = read('HMGET', job_key(id), 'priority', 'entry', 'state')
  if known[3] == 'queued' then
    redis.pcall('XCLAIM', band_key(known[1] or ''), 'workers', consumer, 0, known[2] or '', 'JUSTID')
    grant(id)
  elseif not known[3] then
    lost(id, ttl)
  end
end
local priorities = open_lines()
local waiting = lines(priorities)
while #taken < most and #waiting > 0 do
  deliver(choose(waiting))
  waiting = lines(priorities)
end
if #receipt > 0 then call('SET', this_call, table.concat(receipt, ' '), 'PX', lease_ms) end
if #waiting > 0 or (#taken == most and call('LLEN', returned) > 0) then ring() end
if #taken > 0 then return {{'leases', taken, 0}} end
for _, priority in ipairs(#waiting == 0 and priorities or {{}}) do
  if call('XLEN', band_key(priority)) == 0 then
    call('DEL', band_key(priority))
    call('ZREM', bands, priority)
  end
end
local due = tonumber(call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]) or math.huge
due = math.min(due, runs_out or math.huge)
for _, stage in ipairs(call('ZRANGEBYSCORE', stages, '-inf', now - {_ABANDONED_MS}, 'LIMIT', 0, 1)) do
  unstage(stage, {_AT_ONCE})
end
-- When nothing waits, every job that is not finished is leased or delayed; else some line was lost.
local whole_queue = call('ZCARD', live) == call('ZCARD', leases) + call('ZCARD', delayed)
return {{'leases', taken, due < math.huge and math.max(0, due - now) or -1, whole_queue and 0 or 1}}
"""

RECLAIM = f"""
despite_full_memory()
mend()
local grace = tonumber(call('HGET', meta, 'grace') or 0)
if grace > now then return 0 end
local expired = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, {_AT_ONCE})
for _, id in ipairs(expired) do
  local token, state = unpack(read('HMGET', job_key(id), 'token', 'state'))
  local lease = token and held(id, token)
  if lease then
    if oddity(id) then
      lease.deliveries = 0
    elseif lease.deliveries >= {MAX_DELIVERIES} and call('HGET', job_key(id), 'spared') == '1' then
      lease.deliveries = call('HINCRBY', job_key(id), 'deliveries', -1)
    end
    hand_back(id, lease, ARGV[1])
  elseif not state then
    lost(id, ARGV[1])
  else
    call('ZREM', leases, id)
  end
end
return #expired
"""

RENEW = """
despite_full_memory()
mend()
local kept = {}
for i = 1, #ARGV, 3 do
  local id, token, lease_ms = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if held(id, token) then
    call('ZADD', leases, now + lease_ms, id)
    kept[#kept + 1] = token
  end
end
return kept
"""

FINISH = """
despite_full_memory()
mend()
local ttl = ARGV[1]
return each(5, function(id, token, this_call, state, result)
  return end_lease(id, token, this_call, function(lease)
    call('HSET', job_key(id), 'state', state, 'result', result, 'finished', now,
      'digest', redis.sha1hex(call('HGET', job_key(id), 'payload') or ''))
    call('HDEL', job_key(id), 'payload', 'entry')
    leave(id, lease.priority, lease.entry)
    settle(id, state, lease.batch, ttl)
  end)
end)
"""

RELEASE = f"""
despite_full_memory()
mend()
local ttl = ARGV[1]
return each(5, function(id, token, this_call, delay_ms, counts)
  return end_lease(id, token, this_call, function(lease)
    if counts == '0' and not oddity(id) then lease.deliveries = call('HINCRBY', job_key(id), 'deliveries', -1) end
    if tonumber(delay_ms) > 0 and lease.deliveries < {MAX_DELIVERIES} then
      leave(id, lease.priority, lease.entry)
      call('HSET', job_key(id), 'token', '')
      wait_for_time(id, now + delay_ms)
      ring()
    else
      hand_back(id, lease, ttl)
    end
  end)
end)
"""

BURY = """
despite_full_memory()
mend()
local ttl = ARGV[1]
return each(4, function(id, token, this_call, reason)
  return end_lease(id, token, this_call, function(lease)
    leave(id, lease.priority, lease.entry)
    bury(id, reason, lease.batch, ttl)
  end)
end)
"""

PROGRESS = """
local id, token, note = unpack(ARGV)
if not held(id, token) then return 0 end
call('HSET', job_key(id), 'progress', note)
return 1
"""

CANCEL = """
local id, ttl = unpack(ARGV)
mend()
local known = read('HMGET', job_key(id), 'state', 'priority', 'entry', 'batch', 'payload')
local state = known[1]
if not state or state == 'succeeded' or state == 'failed' or state == 'cancelled' or state == 'staged' then return 0 end
despite_full_memory()
if state == 'dead' then
  exhume(id, known[4])
else
  leave(id, known[2], known[3])
  call('ZREM', delayed, id)
  call('LREM', returned, 1, id)
end
call('HSET', job_key(id), 'state', 'cancelled', 'finished', now, 'digest', redis.sha1hex(known[5] or ''))
call('HDEL', job_key(id), 'payload', 'entry')
settle(id, 'cancelled', known[4], ttl)
return 1
"""

RETRY_DEAD = """
local id = ARGV[1]
mend()
local known = read('HMGET', job_key(id), 'state', 'priority', 'batch', 'foreign')
if known[1] ~= 'dead' or known[4] or not whole(known[2], -100, 100) then return 0 end
exhume(id, known[3])
call('HSET', job_key(id), 'deliveries', 0)
wait_in_line(id, known[2])
return 1
"""

_FIELDS = (
    "'state', 'priority', 'batch', 'deliveries', 'enqueued', 'started', 'finished', 'result', 'progress', 'reason'"
)

STATUS = f"""
local found = {{}}
for _, id in ipairs(ARGV) do
  local known = read('HMGET', job_key(id), {_FIELDS})
  if known[1] and known[1] ~= 'staged' then found[#found + 1] = {{id, known}} end
end
return found
"""

BATCH_STATUS = """
counters(ARGV[1])
return call('HMGET', batch_key(ARGV[1]), 'total', 'started', unpack(ENDS))
"""

BATCH_JOBS = f"""
local found = {{}}
for _, id in ipairs(read('LRANGE', batch_key(ARGV[1]) .. ':jobs', 0, -1)) do
  local known = read('HMGET', job_key(id), {_FIELDS})
  if known[1] and known[1] ~= 'staged' then found[#found + 1] = {{id, known}} end
end
return found
"""

STATS = """
mend()
local waiting, heads, back = {}, {}, {}
for place, id in ipairs(call('LRANGE', returned, 0, -1)) do
  if place == 1 then heads[1] = id end
  local priority = read('HGET', job_key(id), 'priority') or ''
  back[priority] = (back[priority] or 0) + 1
end
local priorities = open_lines()
for _, priority in ipairs(priorities) do
  local pending = call('XPENDING', band_key(priority), 'workers')[1]
  local count = call('XLEN', band_key(priority)) - pending + (back[priority] or 0)
  if count > 0 then waiting[#waiting + 1] = {priority, count} end
end
for _, line in ipairs(lines(priorities)) do heads[#heads + 1] = line.fields[2] end
local oldest
for _, id in ipairs(heads) do
  local enqueued = whole(read('HGET', job_key(id), 'enqueued'))
  if enqueued and enqueued < (oldest or math.huge) then oldest = enqueued end
end
return {waiting, call('ZCARD', delayed), call('ZCARD', leases), call('ZCARD', dead),
  call('HMGET', meta, 'succeeded', 'failed', 'cancelled'), oldest and now - oldest or -1}
"""

LIST_DEAD = f"""
local found, bytes = {{}}, 0
for _, id in ipairs(read('ZREVRANGE', dead, ARGV[1], ARGV[2])) do
  local known = read('HMGET', job_key(id), 'payload', 'reason', 'deliveries', 'batch', 'finished')
  bytes = bytes + #(known[1] or '')
  if #found > 0 and bytes > {_PAGE_BYTES} then break end
  found[#found + 1] = {{id, known}}
end
return found
"""

# Puts jobs back in line whose line was lost, and lets the others know of it.
HEAL = f"""
despite_full_memory()
mend()
local start, ttl = tonumber(ARGV[1]), ARGV[2]

local function know(id)
  if not call('ZSCORE', live, id) then call('ZADD', live, number(), id) end
end

if start == 0 then
  for priority = -100, 100 do
    if read('XLEN', band_key(priority)) > 0 then open_line(priority) end
  end
  for _, key in ipairs({{leases, delayed}}) do
    for _, id in ipairs(call('ZRANGE', key, 0, {_AT_ONCE} - 1)) do know(id) end
  end
  for _, priority in ipairs(open_lines()) do
    for _, entry in ipairs(call('XRANGE', band_key(priority), '-', '+', 'COUNT', {_AT_ONCE})) do
      local id = entry[2][1] == 'job' and entry[2][2]
      if id and read('HGET', job_key(id), 'entry') == entry[1] then know(id) end
    end
  end
end

local function is_in_line(id, priority, entry)
  local band = band_key(priority)
  local there = redis.pcall('XRANGE', band, entry, entry)
  if there.err or not there[1] then return false end
  if #redis.pcall('XPENDING', band, 'workers', entry, entry, 1) > 0 then
    return call('LPOS', returned, id) and true or false
  end
  -- Waiting, unless the group was moved past it.
  local last = (last_delivered(band) or '0'):match('^%d+')
  return tonumber(entry:match('^%d+')) > tonumber(last)
end

local function heal(id)
  local known = read('HMGET', job_key(id), 'state', 'priority', 'entry', 'due', 'lasts')
  local state, priority, entry = known[1], known[2], known[3]
  if state == 'succeeded' or state == 'failed' or state == 'cancelled' or state == 'dead' then
    call('ZREM', live, id)
    call('ZREM', leases, id)
    call('ZREM', delayed, id)
  elseif state == 'leased' then
    if not call('ZSCORE', leases, id) then call('ZADD', leases, now + (whole(known[5], 1) or 30000), id) end
  elseif oddity(id) or (state ~= 'queued' and state ~= 'delayed') then
    lost(id, ttl)
  elseif state == 'delayed' then
    if not call('ZSCORE', delayed, id) then place(id, priority, tonumber(known[4] or '')) end
  elseif not is_in_line(id, priority, entry or '') then
    leave(id, priority, entry)
    wait_in_line(id, priority)
  end
end

local before, ids = call('ZCARD', live), call('ZRANGE', live, start, start + {_AT_ONCE} - 1)
for _, id in ipairs(ids) do heal(id) end
ring()
if #ids < {_AT_ONCE} then return -1 end
return start + #ids - math.max(0, before - call('ZCARD', live))
"""

CHECK = """
mend()
call('HSET', meta, 'checked', now)
return 1
"""

_LIMITS = (pkgutil.get_data("audio_api.queues", "lua/limits.lua") or b"").decode()
_STEPS_OF_LIMITS = (
    "take",
    "count_failure",
    "is_circuit_open",
    "close_gate",
    "learn",
    "open_gate",
    "pause_all",
    "resume_all",
)

STEPS = {
    "enqueue": ENQUEUE,
    "stage": STAGE,
    "accept": ACCEPT,
    "arrive": ARRIVE,
    "unstage": UNSTAGE,
    "heal": HEAL,
    "lease": LEASE,
    "reclaim": RECLAIM,
    "renew": RENEW,
    "finish": FINISH,
    "release": RELEASE,
    "bury": BURY,
    "progress": PROGRESS,
    "cancel": CANCEL,
    "retry_dead": RETRY_DEAD,
    "status": STATUS,
    "batch_status": BATCH_STATUS,
    "batch_jobs": BATCH_JOBS,
    "stats": STATS,
    "list_dead": LIST_DEAD,
    "check": CHECK,
    **{step: f"local steps = {{}}\n{_LIMITS}\nreturn steps.{step}(unpack(ARGV))" for step in _STEPS_OF_LIMITS},
}


def script(body: str, queue: str) -> str:
    """A script ready to run.

    It names its queue: a server that has restarted knows no scripts any more, and every queue's workers must notice.
    """
    return f"-- {queue}\n{CLOCK}{_COMMON}{body}"
