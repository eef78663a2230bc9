-- A lease ends, by its holder or by a caller who cancels the job.

-- Whether this call ends the lease. If not, what answers it: a call that is repeated is told that it did it.
local function end_lease(id, token, this_call)
  despite_full_memory()
  mend()
  if not holds(id, token) then return false, read('HGET', job_key(id), 'call') == this_call and 1 or 0 end
  call('HSET', job_key(id), 'call', this_call)
  return true, 1
end

-- What remains of a payload: enough to know the same job again.
local function digest(id)
  return redis.sha1hex(call('HGET', job_key(id), 'payload') or '')
end

function steps.finish(id, token, this_call, ttl, state, result)
  local ends, answer = end_lease(id, token, this_call)
  if ends then
    settle(id, state, call('HGET', job_key(id), 'batch'), ttl, 'result', result, 'digest', digest(id))
    call('HDEL', job_key(id), 'payload')
  end
  return answer
end

function steps.release(id, token, this_call, ttl, delay_ms, counts)
  local ends, answer = end_lease(id, token, this_call)
  if ends then
    local known = call('HMGET', job_key(id), 'deliveries', 'priority')
    local deliveries = whole(known[1])
    if counts == '0' and deliveries then deliveries = call('HINCRBY', job_key(id), 'deliveries', -1) end
    if tonumber(delay_ms) > 0 and (deliveries or 0) < MAX_DELIVERIES and whole(known[2], -PRIORITIES, PRIORITIES) then
      call('ZREM', leases, id)
      place(id, known[2], now + delay_ms)
    else
      hand_back(id, ttl)
    end
  end
  return answer
end

function steps.bury(id, token, this_call, ttl, reason)
  local ends, answer = end_lease(id, token, this_call)
  if ends then bury(id, reason, call('HGET', job_key(id), 'batch'), ttl) end
  return answer
end

function steps.progress(id, token, note)
  if not holds(id, token) then return 0 end
  call('HSET', job_key(id), 'progress', note)
  return 1
end

function steps.cancel(id, ttl)
  mend()
  local known = read('HMGET', job_key(id), 'state', 'batch')
  local state, batch = known[1], known[2]
  if not state or state == 'staged' or (OVER[state] and state ~= 'dead') then return 0 end
  despite_full_memory()
  if state == 'dead' then exhume(id, batch) end
  settle(id, 'cancelled', batch, ttl, 'digest', digest(id))
  call('HDEL', job_key(id), 'payload')
  return 1
end

function steps.retry_dead(id, note)
  mend()
  local known = read('HMGET', job_key(id), 'state', 'priority', 'batch')
  if known[1] ~= 'dead' or not whole(known[2], -PRIORITIES, PRIORITIES) then return 0 end
  exhume(id, known[3])
  call('HSET', job_key(id), 'deliveries', 0)
  if note then call('HSET', job_key(id), 'progress', note) end
  place(id, known[2])
  return 1
end
