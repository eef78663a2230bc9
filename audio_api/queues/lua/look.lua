-- Questions about jobs, batches and the queue.

-- Most bytes of payloads in one answer, unless a single one is larger.
local PAGE_BYTES = 1000000

local function statuses(ids)
  local found = {}
  for _, id in ipairs(ids) do
    local known = read('HMGET', job_key(id), 'state', 'priority', 'batch', 'deliveries', 'enqueued', 'started',
      'finished', 'result', 'progress', 'reason', 'worker')
    if known[1] and known[1] ~= 'staged' then found[#found + 1] = {id, known} end
  end
  return found
end

function steps.status(id) return statuses({id}) end

function steps.payload(id) return read('HMGET', job_key(id), 'payload') end

function steps.batch_status(batch)
  has_counters(batch)
  return call('HMGET', batch_key(batch), 'total', 'started', unpack(ENDS))
end

function steps.batch_jobs(batch)
  return statuses(read('LRANGE', batch_key(batch) .. ':jobs', 0, -1))
end

function steps.stats()
  mend()
  local waiting, lines, oldest = {}, heads(), now
  for _, line in ipairs(lines) do
    waiting[PRIORITIES + 1 - line.band] = call('ZCOUNT', wait, line.band * BAND, (line.band + 1) * BAND - 1)
  end
  local returned = call('ZRANGEBYSCORE', wait, '-inf', BAND - 1)
  for _, id in ipairs(returned) do
    local priority = whole(read('HGET', job_key(id), 'priority'), -PRIORITIES, PRIORITIES)
    if priority then waiting[priority] = (waiting[priority] or 0) + 1 end
  end
  local counts = {}
  for priority, count in pairs(waiting) do counts[#counts + 1] = {priority, count} end
  if returned[1] then lines[#lines + 1] = {id = returned[1]} end
  for _, line in ipairs(lines) do
    oldest = math.min(oldest, whole(read('HGET', job_key(line.id), 'enqueued')) or now)
  end
  return {counts, call('ZCARD', delayed), call('ZCARD', leases), read('ZCARD', dead),
    call('HMGET', meta, unpack(ENDS)), #lines > 0 and now - oldest or -1}
end

function steps.list_dead(first, last)
  local found, bytes = {}, 0
  for _, id in ipairs(read('ZREVRANGE', dead, first, last)) do
    local known = read('HMGET', job_key(id), 'payload', 'reason', 'deliveries', 'batch', 'finished')
    bytes = bytes + #(known[1] or '')
    if #found > 0 and bytes > PAGE_BYTES then break end
    found[#found + 1] = {id, known}
  end
  return found
end

function steps.list_jobs(state, first, last)
  local open = {queued = wait, delayed = delayed, leased = leases}
  if open[state] then return statuses(read('ZRANGE', open[state], first, last)) end
  if state == 'dead' then return statuses(read('ZREVRANGE', dead, first, last)) end
  local found, place = {}, 0
  for _, id in ipairs(read('ZREVRANGE', recent, 0, -1)) do
    if read('HGET', job_key(id), 'state') == state then
      if place >= tonumber(first) and place <= tonumber(last) then found[#found + 1] = id end
      place = place + 1
    end
  end
  return statuses(found)
end

function steps.check()
  mend()
  call('HSET', meta, 'checked', now)
  return 1
end

-- Notes which workers are here, or have left, and returns all that said so within so many milliseconds, each with how
-- long ago. The arguments after the first are two for each: its name, and 'here' or 'gone'.
function steps.workers(window)
  local workers, found = q .. ':workers', {}
  read('ZCARD', workers)
  for i = 2, #ARGV, 2 do
    if ARGV[i + 1] == 'here' then call('ZADD', workers, now, ARGV[i]) else call('ZREM', workers, ARGV[i]) end
  end
  if #ARGV > 1 then
    call('ZREMRANGEBYSCORE', workers, '-inf', now - window)
    call('PEXPIRE', workers, window)
  end
  local known = call('ZRANGEBYSCORE', workers, now - window, '+inf', 'WITHSCORES')
  for i = 1, #known, 2 do found[#found + 1] = {known[i], math.max(0, now - known[i + 1])} end
  return found
end

local function counted_today() return q .. ':counts:' .. math.floor(now / DAY_MS) end

-- Adds to what is counted: two arguments for each, its name and how much.
function steps.count()
  despite_full_memory()
  for key, days in pairs({[q .. ':counts'] = 31, [counted_today()] = 2}) do
    for i = 1, #ARGV, 2 do
      if not whole(read('HGET', key, ARGV[i]) or 0) then call('HDEL', key, ARGV[i]) end
      call('HINCRBY', key, ARGV[i], ARGV[i + 1])
    end
    call('PEXPIRE', key, days * DAY_MS)
  end
  return 1
end

function steps.counts(today)
  return read('HGETALL', today == '1' and counted_today() or q .. ':counts')
end
