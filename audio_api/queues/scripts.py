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
    audio_api:{queue}:reply:<call>  string: what a lease call took, in case its reply is lost
    audio_api:{queue}:gate:<model>  hash: until when nobody calls this model; :calls and :today count its calls
    audio_api:{queue}:done          channel: "job <id>" and "batch <id>" when one ends

A script that fails leaves nothing half done: Redis refuses it, as a replica or for want of memory, at its first write.
A full Redis takes no new jobs and lets those it has be done, which frees memory. Times are milliseconds of Redis' own
clock. An entry's stream id is a number of the queue, so that the entries of all streams have one order.
"""

from __future__ import annotations

from audio_api.queues import limits
from audio_api.queues.base import FAIR_TURN, MAX_DELIVERIES, NEVER_FINISHED

CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Most jobs moved in one step, so that no script holds the server for long.
_AT_ONCE = 1_000
# Most bytes of payloads in one answer, unless a single one is larger.
_PAGE_BYTES = 1_000_000

_COMMON = f"""
local q = KEYS[1]
local call = redis.call
local meta, bands, leases, delayed = q .. ':meta', q .. ':bands', q .. ':leases', q .. ':delayed'
local returned, dead, wake = q .. ':returned', q .. ':dead', q .. ':wake'

local function job_key(id) return q .. ':job:' .. id end
local function batch_key(id) return q .. ':batch:' .. id end
local function band_key(priority) return q .. ':band:' .. priority end
local function number() return call('HINCRBY', meta, 'number', 1) end

-- After a first write that needs no memory, Redis lets the others of a script pass.
local function despite_full_memory() call('DEL', q .. ':nothing') end

local function ring()
  if call('LLEN', wake) == 0 then call('RPUSH', wake, '1') end
end

local function wait_in_line(id, priority)
  local band = band_key(priority)
  if call('ZADD', bands, priority, priority) == 1 then
    redis.pcall('XGROUP', 'CREATE', band, 'workers', '0', 'MKSTREAM')
  end
  local entry = string.format('%d-0', number())
  call('XADD', band, entry, 'job', id)
  call('HSET', job_key(id), 'state', 'queued', 'entry', entry)
  ring()
end

local function wait_for_time(id, due)
  call('HSET', job_key(id), 'state', 'delayed', 'entry', '')
  call('ZADD', delayed, due, id)
end

local function leave(id, priority, entry)
  if entry ~= '' then
    call('XACK', band_key(priority), 'workers', entry)
    call('XDEL', band_key(priority), entry)
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

local function for_batch(batch, apply)
  apply(batch_key(batch))
  apply(batch_key(batch) .. ':jobs')
  for _, id in ipairs(call('LRANGE', batch_key(batch) .. ':jobs', 0, -1)) do
    if call('HGET', job_key(id), 'state') ~= 'dead' then apply(job_key(id)) end
  end
end

-- Result, counters and acknowledgement belong together: this follows the HSET of a final state.
local function settle(id, state, batch, ttl)
  call('HINCRBY', meta, state, 1)
  if batch and call('EXISTS', batch_key(batch)) == 1 then
    call('HINCRBY', batch_key(batch), state, 1)
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

local function exhume(id, batch)
  if call('ZREM', dead, id) == 0 then return end
  call('HDEL', job_key(id), 'reason', 'finished')
  if batch and call('EXISTS', batch_key(batch)) == 1 then
    call('HINCRBY', batch_key(batch), 'dead', -1)
    for_batch(batch, function(key) call('PERSIST', key) end)
  end
end

-- The job's batch, priority and entry while this token holds it; nothing for a stale one.
local function held(id, token)
  local known = call('HMGET', job_key(id), 'state', 'token', 'priority', 'entry', 'batch', 'deliveries')
  if known[1] == 'leased' and known[2] == token then
    return {{priority = known[3], entry = known[4], batch = known[5], deliveries = tonumber(known[6])}}
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
    local group, last = call('XINFO', 'GROUPS', band)[1], '0'
    for i = 1, #group, 2 do
      if group[i] == 'last-delivered-id' then last = group[i + 1] end
    end
    local head = call('XRANGE', band, '(' .. last, '+', 'COUNT', 1)[1]
    if head then found[#found + 1] = {{priority = priority, band = band, entry = head[1], fields = head[2]}} end
  end
  return found
end
"""

ENQUEUE = """
local batch, max_size = ARGV[1], tonumber(ARGV[2])
local fresh, ids = {}, {}
for i = 3, #ARGV, 4 do
  local id, payload = ARGV[i], ARGV[i + 1]
  local known = call('HMGET', job_key(id), 'state', 'payload', 'digest', 'batch')
  ids[#ids + 1] = id
  if not known[1] then
    fresh[#fresh + 1] = i
  elseif (known[4] or '') ~= batch or not (known[2] == payload or known[3] == redis.sha1hex(payload)) then
    return {'job', id}
  end
end
local listed = batch ~= '' and call('LRANGE', batch_key(batch) .. ':jobs', 0, -1) or {}
if #listed > 0 and table.concat(listed, ' ') ~= table.concat(ids, ' ') then return {'batch', batch} end
if max_size and #fresh > 0 then
  local waiting = call('ZCARD', delayed) - call('ZCARD', leases)
  for _, priority in ipairs(call('ZRANGE', bands, 0, -1)) do waiting = waiting + call('XLEN', band_key(priority)) end
  if waiting + #fresh > max_size then return {'full', waiting, #fresh} end
end
for _, i in ipairs(fresh) do
  local id, payload, priority, due = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  call('HSET', job_key(id), 'payload', payload, 'priority', priority, 'enqueued', now)
  if batch ~= '' then call('HSET', job_key(id), 'batch', batch) end
  if due and due > now then wait_for_time(id, due) else wait_in_line(id, priority) end
end
if batch ~= '' and #listed == 0 then
  call('HSET', batch_key(batch), 'total', #ids)
  for _, id in ipairs(ids) do call('RPUSH', batch_key(batch) .. ':jobs', id) end
end
if #fresh > 0 then ring() end
return {'ok'}
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
  local token, batch = number(), call('HGET', job_key(id), 'batch')
  local last = call('HINCRBY', job_key(id), 'deliveries', 1) >= {MAX_DELIVERIES}
  if last then call('HSET', job_key(id), 'spared', spare) end
  call('HSET', job_key(id), 'state', 'leased', 'token', token, 'started', now)
  call('ZADD', leases, now + lease_ms, id)
  if batch and call('EXISTS', batch_key(batch)) == 1 then call('HSET', batch_key(batch), 'started', 1) end
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
  local read = call('XREADGROUP', 'GROUP', 'workers', consumer, 'COUNT', count, 'STREAMS', line.band, '>')
  for _, entry in ipairs(read[1][2]) do
    local id = entry[2][1] == 'job' and entry[2][2]
    local known = id and call('HMGET', job_key(id), 'entry', 'state', 'payload')
    if known and known[1] == entry[1] and known[2] == 'queued' and known[3] then
      grant(id)
    else
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
for id, token in (call('GET', this_call) or ''):gmatch('(%S+) (%S+)') do
  if held(id, token) then
    call('ZADD', leases, now + lease_ms, id)
    show(id, token)
  end
end
if #taken > 0 then return {{'leases', taken, 0}} end
if just_restarted then call('HSET', meta, 'grace', now + lease_ms) end
for _, id in ipairs(call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, {_AT_ONCE})) do
  call('ZREM', delayed, id)
  wait_in_line(id, call('HGET', job_key(id), 'priority'))
end
local runs_out = reclaim ~= 'never' and tonumber(call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2])
if runs_out then runs_out = math.max(runs_out, tonumber(call('HGET', meta, 'grace') or 0)) end
if reclaim == 'first' and runs_out and runs_out <= now then return {{'expired'}} end

while #taken < most do
  local id = call('LINDEX', returned, 0)
  if not id then break end
  local known = call('HMGET', job_key(id), 'priority', 'entry')
  call('LPOP', returned)
  call('XCLAIM', band_key(known[1]), 'workers', consumer, 0, known[2], 'JUSTID')
  grant(id)
end
local priorities = call('ZREVRANGE', bands, 0, -1)
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
return {{'leases', taken, due < math.huge and math.max(0, due - now) or -1}}
"""

RECLAIM = f"""
local grace = tonumber(call('HGET', meta, 'grace') or 0)
if grace > now then return 0 end
despite_full_memory()
local expired = call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, {_AT_ONCE})
for _, id in ipairs(expired) do
  local token = call('HGET', job_key(id), 'token')
  local lease = token and held(id, token)
  if lease then
    if lease.deliveries >= {MAX_DELIVERIES} and call('HGET', job_key(id), 'spared') == '1' then
      lease.deliveries = call('HINCRBY', job_key(id), 'deliveries', -1)
    end
    hand_back(id, lease, ARGV[1])
  else
    call('ZREM', leases, id)
  end
end
return #expired
"""

RENEW = """
despite_full_memory()
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
local ttl = ARGV[1]
return each(5, function(id, token, this_call, state, result)
  return end_lease(id, token, this_call, function(lease)
    call('HSET', job_key(id), 'state', state, 'result', result, 'finished', now,
      'digest', redis.sha1hex(call('HGET', job_key(id), 'payload')))
    call('HDEL', job_key(id), 'payload', 'entry')
    leave(id, lease.priority, lease.entry)
    settle(id, state, lease.batch, ttl)
  end)
end)
"""

RELEASE = f"""
despite_full_memory()
local ttl = ARGV[1]
return each(5, function(id, token, this_call, delay_ms, counts)
  return end_lease(id, token, this_call, function(lease)
    if counts == '0' then lease.deliveries = call('HINCRBY', job_key(id), 'deliveries', -1) end
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
local known = call('HMGET', job_key(id), 'state', 'priority', 'entry', 'batch', 'payload')
local state = known[1]
if not state or state == 'succeeded' or state == 'failed' or state == 'cancelled' then return 0 end
despite_full_memory()
if state == 'dead' then
  exhume(id, known[4])
else
  leave(id, known[2], known[3])
  call('ZREM', delayed, id)
  call('LREM', returned, 1, id)
end
call('HSET', job_key(id), 'state', 'cancelled', 'finished', now, 'digest', redis.sha1hex(known[5]))
call('HDEL', job_key(id), 'payload', 'entry')
settle(id, 'cancelled', known[4], ttl)
return 1
"""

RETRY_DEAD = """
local id = ARGV[1]
local known = call('HMGET', job_key(id), 'state', 'priority', 'batch', 'foreign')
if known[1] ~= 'dead' or known[4] then return 0 end
number()
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
  local known = call('HMGET', job_key(id), {_FIELDS})
  if known[1] then found[#found + 1] = {{id, known}} end
end
return found
"""

BATCH_STATUS = """
return call('HMGET', batch_key(ARGV[1]), 'total', 'started', unpack(ENDS))
"""

BATCH_JOBS = f"""
local found = {{}}
for _, id in ipairs(call('LRANGE', batch_key(ARGV[1]) .. ':jobs', 0, -1)) do
  local known = call('HMGET', job_key(id), {_FIELDS})
  if known[1] then found[#found + 1] = {{id, known}} end
end
return found
"""

STATS = """
local waiting, heads, back = {}, {}, {}
for place, id in ipairs(call('LRANGE', returned, 0, -1)) do
  if place == 1 then heads[1] = id end
  local priority = call('HGET', job_key(id), 'priority')
  back[priority] = (back[priority] or 0) + 1
end
for _, priority in ipairs(call('ZRANGE', bands, 0, -1)) do
  local pending = call('XPENDING', band_key(priority), 'workers')[1]
  local count = call('XLEN', band_key(priority)) - pending + (back[priority] or 0)
  if count > 0 then waiting[#waiting + 1] = {priority, count} end
end
for _, line in ipairs(lines(call('ZREVRANGE', bands, 0, -1))) do heads[#heads + 1] = line.fields[2] end
local oldest
for _, id in ipairs(heads) do
  local enqueued = tonumber(call('HGET', job_key(id), 'enqueued'))
  if enqueued and enqueued < (oldest or math.huge) then oldest = enqueued end
end
return {waiting, call('ZCARD', delayed), call('ZCARD', leases), call('ZCARD', dead),
  call('HMGET', meta, 'succeeded', 'failed', 'cancelled'), oldest and now - oldest or -1}
"""

LIST_DEAD = f"""
local found, bytes = {{}}, 0
for _, id in ipairs(call('ZREVRANGE', dead, ARGV[1], ARGV[2])) do
  local known = call('HMGET', job_key(id), 'payload', 'reason', 'deliveries', 'batch', 'finished')
  bytes = bytes + #(known[1] or '')
  if #found > 0 and bytes > {_PAGE_BYTES} then break end
  found[#found + 1] = {{id, known}}
end
return found
"""

CHECK = """
call('HSET', meta, 'checked', now)
return 1
"""

STEPS = {
    "enqueue": ENQUEUE,
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
    **limits.STEPS,
}


def script(body: str, queue: str) -> str:
    """A script ready to run.

    It names its queue: a server that has restarted knows no scripts any more, and every queue's workers must notice.
    """
    return f"-- {queue}\n{CLOCK}{_COMMON}{body}"
