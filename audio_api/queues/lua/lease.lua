-- Jobs are handed out, and leases last or run out.

-- The next job: one that was handed back, else the first of the highest priority. While several priorities wait, every
-- FAIR_TURN-th job is the oldest of them all.
local function next_in_line()
  local first = call('ZRANGE', wait, 0, 0, 'WITHSCORES')
  local band = first[1] and math.floor(first[2] / BAND)
  if not band or band < 1 or band == math.floor(call('ZRANGE', wait, -1, -1, 'WITHSCORES')[2] / BAND) then
    return first[1]
  end
  if call('HINCRBY', meta, 'turns', 1) % FAIR_TURN > 0 then return first[1] end
  local oldest
  for _, head in ipairs(heads()) do
    if not oldest or head.number < oldest.number then oldest = head end
  end
  return oldest and oldest.id or first[1]
end

local function show(id)
  local known = call('HMGET', job_key(id), 'payload', 'priority', 'batch', 'token', 'deliveries', 'progress', 'trace',
    'enqueued')
  return {id, known[1], known[2], known[3] or '', known[4], known[5], known[6] or '', known[7] or '',
    now - (whole(known[8]) or now)}
end

local function grant(id, lease_ms, worker)
  local token, batch = number(), call('HGET', job_key(id), 'batch')
  call('HINCRBY', job_key(id), 'deliveries', 1)
  call('HSET', job_key(id), 'state', 'leased', 'token', token, 'started', now, 'lasts', lease_ms,
    'worker', worker)
  call('ZADD', leases, now + lease_ms, id)
  call('ZADD', live, token, id)
  if has_counters(batch) then call('HSET', batch_key(batch), 'started', 1) end
  return show(id)
end

-- What a call took whose reply was lost: it is asked again.
local function taken_by(receipt)
  local taken = {}
  for id, token in (read('GET', receipt) or ''):gmatch('(%S+) (%S+)') do
    if holds(id, token) then
      call('ZADD', leases, now + call('HGET', job_key(id), 'lasts'), id)
      taken[#taken + 1] = show(id)
    end
  end
  return taken
end

local function promote(ttl)
  for _, id in ipairs(call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
    call('ZREM', delayed, id)
    local odd, state = examine(id)
    if odd then condemn(id, odd, ttl) elseif state == 'delayed' then place(id, call('HGET', job_key(id), 'priority')) end
  end
end

local function reclaim(ttl)
  for _, id in ipairs(call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, AT_ONCE)) do
    local odd, state = examine(id)
    if state == 'leased' then
      hand_back(id, ttl)
    elseif odd then
      condemn(id, odd, ttl)
    else
      call('ZREM', leases, id)
    end
  end
end

-- When the clock went back, a lease must not last for as long again.
local function shorten_leases(lease_ms)
  for _, id in ipairs(call('ZREVRANGEBYSCORE', leases, '+inf', now + lease_ms + 1000, 'LIMIT', 0, AT_ONCE)) do
    local ends = now + (whole(read('HGET', job_key(id), 'lasts'), 1) or lease_ms)
    if tonumber(call('ZSCORE', leases, id)) > ends + 1000 then call('ZADD', leases, ends, id) end
  end
end

-- Answers 'expired' while leases have run out, until it is asked to reclaim them: a call that a frozen server finds
-- after its thaw must not take the jobs of those who could not renew. Else 'leases' answers, with the leases, the
-- milliseconds until a job may appear by itself, and whether the keys fit together: every job that is not finished
-- waits, is delayed or is leased, else some line was lost. 'suspect' answers when the next job was delivered before and
-- the call takes none of those. An idle call costs few commands.
function steps.lease(most, lease_ms, this_call, reclaims, ttl, suspects, worker, restarted)
  local receipt, receipts = q .. ':reply:' .. this_call, {}
  most, lease_ms = tonumber(most), tonumber(lease_ms)
  local size = mend()
  local fit = size[live] == size[wait] + size[delayed] + size[leases]
  if size[live] + size[wait] + size[delayed] + size[leases] + size[arrivals] > 0 then despite_full_memory() end
  local taken = taken_by(receipt)
  if #taken > 0 then return {'leases', taken, 0, 1} end
  -- A server that knows no scripts has restarted; those who hold leases get the time to renew them.
  if restarted == '1' then call('HSET', meta, 'grace', now + lease_ms) end
  if size[delayed] > 0 then promote(ttl) end
  if size[arrivals] > 0 then arrive(AT_ONCE) end
  local runs_out = math.huge
  if size[leases] > 0 then
    shorten_leases(lease_ms)
    local grace = tonumber(call('HGET', meta, 'grace') or 0)
    runs_out = math.max(grace, tonumber(call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2] or math.huge))
    if runs_out <= now and reclaims == 'ask' then return {'expired'} end
    if runs_out <= now and reclaims == 'now' then reclaim(ttl) end
  end
  local suspect = false
  while #taken < most do
    local id = next_in_line()
    if not id then break end
    local odd, state, deliveries = examine(id)
    suspect = suspects == '0' and not odd and state == 'queued' and deliveries > 0
    if suspect then break end
    call('ZREM', wait, id)
    if odd then
      condemn(id, odd, ttl)
    elseif state == 'queued' then
      taken[#taken + 1] = grant(id, lease_ms, worker)
      receipts[#taken] = id .. ' ' .. taken[#taken][5]
    end
  end
  if #taken > 0 then call('SET', receipt, table.concat(receipts, ' '), 'PX', lease_ms) end
  if (suspect or #taken == most) and call('ZCARD', wait) > 0 then ring() end
  if suspect and #taken == 0 then return {'suspect'} end
  if reclaims == 'never' then runs_out = math.huge end
  local due = size[delayed] + size[arrivals] > 0 and call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
  due = math.min(runs_out, tonumber(due or math.huge))
  return {'leases', taken, due < math.huge and math.max(0, due - now) or -1, (fit or #taken > 0) and 1 or 0}
end

-- The arguments are three for each lease: id, token and milliseconds. The tokens of those that are held answer.
function steps.renew()
  despite_full_memory()
  mend()
  local kept = {}
  for i = 1, #ARGV, 3 do
    if holds(ARGV[i], ARGV[i + 1]) then
      call('ZADD', leases, now + ARGV[i + 2], ARGV[i])
      kept[#kept + 1] = ARGV[i + 1]
    end
  end
  return kept
end

-- Puts a job where its state says that it is.
local function heal(id, ttl)
  local odd, state = examine(id)
  if OVER[state] then
    leave(id)
  elseif odd then
    condemn(id, odd, ttl)
  elseif state == 'leased' and not call('ZSCORE', leases, id) then
    call('ZADD', leases, now + (whole(call('HGET', job_key(id), 'lasts'), 1) or 30000), id)
  elseif state == 'delayed' and not call('ZSCORE', delayed, id) or state == 'queued' and not call('ZSCORE', wait, id) then
    local known = call('HMGET', job_key(id), 'priority', 'due')
    place(id, known[1], state == 'delayed' and tonumber(known[2] or ''))
  end
end

-- Puts jobs back in line whose line was lost, from the start-th on; where to go on, or -1 at the end. The lines of the
-- version before 2.0 were streams: its jobs come over, and the streams go.
function steps.heal(start, ttl)
  despite_full_memory()
  mend()
  start = tonumber(start)
  if start == 0 then
    for _, priority in ipairs(read('ZRANGE', q .. ':bands', 0, -1)) do call('DEL', q .. ':band:' .. priority) end
    call('DEL', q .. ':bands', q .. ':returned', q .. ':stages')
    for _, key in ipairs({leases, delayed, wait}) do
      for _, id in ipairs(call('ZRANGE', key, 0, AT_ONCE - 1)) do
        if not call('ZSCORE', live, id) then call('ZADD', live, number(), id) end
      end
    end
  end
  local before, ids = call('ZCARD', live), call('ZRANGE', live, start, start + AT_ONCE - 1)
  for _, id in ipairs(ids) do heal(id, ttl) end
  if #ids < AT_ONCE then return -1 end
  return start + #ids - math.max(0, before - call('ZCARD', live))
end
