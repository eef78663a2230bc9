-- Jobs are accepted: a small call in one step, a large one in several, all or none.

-- Whether a job is 'new', or 'known' as the same, or 'other', with another payload or batch. A job that is staged is
-- new until its call is accepted.
local function acquaintance(id, payload, batch)
  local known = read('HMGET', job_key(id), 'state', 'payload', 'digest', 'batch', 'stage')
  if not known[1] or (known[1] == 'staged' and not call('LPOS', arrivals, known[5] or '')) then return 'new' end
  local same = (known[4] or '') == batch and (known[2] == payload or known[3] == redis.sha1hex(payload))
  return same and 'known' or 'other'
end

local function waiting_count()
  local waiting = call('ZCARD', wait) + call('ZCARD', delayed)
  for _, stage in ipairs(call('LRANGE', arrivals, 0, -1)) do waiting = waiting + read('LLEN', stage_key(stage)) end
  return waiting
end

-- The jobs of a call that is refused expire; without their stage they cannot be accepted.
local function refuse(stage, why)
  call('DEL', stage_key(stage))
  return why
end

-- The arguments: the batch; the stage of this call, how many of its jobs came in earlier steps, and how many it has;
-- how many jobs may wait. Then five for each job: id, payload, priority, when it is due, and its trace.
local FIRST, EACH = 6, 5

function steps.enqueue(batch, stage, before, total, most)
  mend()
  before, total, most = tonumber(before), tonumber(total), tonumber(most)
  local last, alone = before + (#ARGV - FIRST + 1) / EACH == total, before == 0 and FIRST + EACH * total - 1 == #ARGV
  local staged = alone and 0 or read('LLEN', stage_key(stage))
  -- A step is repeated when its reply was lost.
  if staged > before then return {'ok'} end
  local fresh, ids = {}, {}
  for i = FIRST, #ARGV, EACH do
    local found = acquaintance(ARGV[i], ARGV[i + 1], batch)
    if found == 'other' then return refuse(stage, {'job', ARGV[i]}) end
    if found == 'new' then fresh[#fresh + 1] = i end
    ids[#ids + 1] = ARGV[i]
  end
  if staged < before then return {#fresh == 0 and 'ok' or 'gone'} end
  local listed = batch ~= '' and read('LRANGE', batch_key(batch) .. ':jobs', 0, -1) or {}
  if #listed > 0 and table.concat(listed, ' ') ~= table.concat(ids, ' ') then return {'batch'} end
  local new = alone and #fresh or total
  if most and new > 0 and (before == 0 or last) then
    local waiting = waiting_count()
    if waiting + new > most then return refuse(stage, {'full', waiting, new}) end
  end
  for _, i in ipairs(fresh) do
    local id, key, due = ARGV[i], job_key(ARGV[i]), tonumber(ARGV[i + 3])
    local rival = call('HGET', key, 'stage')
    -- First, because a full Redis refuses a script at its first write, unless that is one that deletes.
    call('HSET', key, 'payload', ARGV[i + 1], 'priority', ARGV[i + 2], 'enqueued', now, 'batch', batch)
    call('HDEL', key, 'deliveries', 'progress', 'reason', 'finished', 'result', 'digest', 'due', 'stage', 'trace')
    if ARGV[i + 4] ~= '' then call('HSET', key, 'trace', ARGV[i + 4]) end
    -- A call that staged the same job and was not accepted is told that its stage is gone.
    if rival and rival ~= stage then call('DEL', stage_key(rival)) end
    if alone then
      call('PERSIST', key)
      place(id, ARGV[i + 2], due)
    else
      call('HSET', key, 'state', 'staged', 'stage', stage, 'due', due or '')
      call('PEXPIRE', key, DAY_MS)
    end
  end
  if not alone then
    call('RPUSH', stage_key(stage), unpack(ids))
    call('PEXPIRE', stage_key(stage), DAY_MS)
    if last then
      call('RPUSH', arrivals, stage)
      ring()
    end
  elseif batch ~= '' and #listed == 0 then
    read('HLEN', batch_key(batch))
    call('HSET', batch_key(batch), 'total', #ids)
    for _, id in ipairs(ids) do call('RPUSH', batch_key(batch) .. ':jobs', id) end
  end
  return {'ok'}
end

-- Lets jobs of accepted calls wait; how many calls are left.
function steps.arrive()
  mend()
  arrive(AT_ONCE)
  return call('LLEN', arrivals)
end
