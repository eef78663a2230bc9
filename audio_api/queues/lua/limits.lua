-- How often the API may be called by all workers of a queue together.
--
--   gate:<model>   hash: until when no worker calls this model, whether one call probes it afterwards, how many calls
--                  have failed in a row, and whether they have opened the circuit
--   gate:*         hash: the same for the whole account; no model has this name
--   calls:<model>  list: the moments of the latest calls, the newest first
--   today:<model>  string: the calls of this day
--   limit:<model>  hash: the quota that the API has named

-- No gate is closed beyond a day and an hour: the longest days have 25 hours.
local FARTHEST_MS = 26 * 3600000
-- A gate is forgotten when no call wanted to pass it for an hour.
local FORGOTTEN_MS = 3600000
-- The most calls that are remembered of a model without a limit: the API may name one at any call.
local REMEMBERED = 1000

local account = q .. ':gate:*'
local function gate_key(model) return q .. ':gate:' .. model end

-- Forgets a gate that cannot be right: its fields are moments or lengths of time in milliseconds.
local function check_gate(key)
  for i, value in ipairs(read('HGETALL', key)) do
    local found = tonumber(value)
    if i % 2 == 0 and not (found and found >= 0 and found <= now + FARTHEST_MS) then call('DEL', key) end
  end
end

-- Keeps a gate for an hour after it lets the next probe through.
local function hold_back(key, field, pause_ms)
  call('HSET', key, field, now + pause_ms)
  call('PEXPIRE', key, pause_ms + FORGOTTEN_MS)
end

-- When a place among the latest `most` calls is free.
local function place_free_at(calls, most, window_ms)
  local oldest = most and call('LINDEX', calls, most - 1)
  return oldest and oldest + window_ms or 0
end

-- The moment at which the next call of a burst may leave, while nothing is known of the quota.
local function next_of_burst(calls, newest, first_calls, first_gap_ms)
  return newest and call('LLEN', calls) < tonumber(first_calls) and newest + first_gap_ms or 0
end

function steps.take(model, most, window_ms, most_today, day_end, first_calls, first_gap_ms, answered)
  most, window_ms, most_today, day_end = tonumber(most), tonumber(window_ms), tonumber(most_today), tonumber(day_end)
  local gate, calls, today = gate_key(model), q .. ':calls:' .. model, q .. ':today:' .. model
  if most_today and now >= day_end then return {'which day', now, ''} end
  check_gate(gate)
  if not whole(read('GET', today) or '0') then call('DEL', today) end
  -- Calls of the future are those of a clock that went back.
  local newest, last = read('LINDEX', calls, 0), read('LINDEX', calls, -1)
  if newest and not (whole(newest, 0, now + 1000) and whole(last)) then call('DEL', calls) end
  if answered ~= '' then call('HDEL', gate, 'failures', 'circuit') end
  local closed, pause = call('HMGET', gate, 'until', 'probe', 'circuit'), call('HMGET', account, 'ends', 'held', 'probe')
  local learned = read('HMGET', q .. ':limit:' .. model, 'most', 'window')
  local free = math.max(tonumber(closed[1] or 0), tonumber(pause[1] or 0), tonumber(pause[2] or 0),
    place_free_at(calls, most, window_ms),
    place_free_at(calls, whole(learned[1], 1), math.min(window_ms, whole(learned[2]) or window_ms)))
  if most_today and tonumber(call('GET', today) or 0) >= most_today then free = math.max(free, day_end) end
  if not (most or whole(learned[1], 1)) then
    free = math.max(free, next_of_burst(calls, newest, first_calls, first_gap_ms))
  end
  local circuit = closed[3] and ' circuit' or ''
  if free > now then return {'wait', free - now, circuit} end
  call('LPUSH', calls, now)
  call('LTRIM', calls, 0, (most or REMEMBERED) - 1)
  call('PEXPIRE', calls, window_ms)
  if most_today then
    call('INCR', today)
    call('PEXPIRE', today, day_end - now)
  end
  local probe_ms, hold_ms = tonumber(closed[2] or 0), tonumber(pause[3] or 0)
  if probe_ms > 0 then hold_back(gate, 'until', probe_ms) end
  if hold_ms > 0 then hold_back(account, 'held', hold_ms) end
  return {'go', 0, (probe_ms > 0 and 'probe' or '') .. (hold_ms > 0 and ' account' or '') .. circuit}
end

function steps.close_gate(model, wait_ms, probe_ms)
  local gate = gate_key(model)
  check_gate(gate)
  local known = call('HMGET', gate, 'until', 'probe')
  local free, probe = math.max(now + wait_ms, tonumber(known[1] or 0)), math.max(probe_ms, tonumber(known[2] or 0))
  call('HSET', gate, 'until', free, 'probe', probe)
  call('PEXPIRE', gate, free - now + (probe > 0 and FORGOTTEN_MS or 0))
  return 1
end

function steps.count_failure(model, most, first_probe_ms, probe_ms, answered)
  local gate = gate_key(model)
  check_gate(gate)
  if answered ~= '' then call('HDEL', gate, 'failures', 'circuit') end
  local failures = call('HINCRBY', gate, 'failures', 1)
  if failures >= tonumber(most) and call('HSETNX', gate, 'circuit', 1) == 1 then
    steps.close_gate(model, first_probe_ms, tonumber(probe_ms))
  end
  call('PEXPIRE', gate, math.max(0, tonumber(call('HGET', gate, 'until') or 0) - now) + FORGOTTEN_MS)
  return failures
end

function steps.is_circuit_open(model)
  return tonumber(read('HGET', gate_key(model), 'circuit') or 0)
end

function steps.learn(model, most, wait_ms, margin, kept_ms)
  local limit, oldest = q .. ':limit:' .. model, whole(call('LINDEX', q .. ':calls:' .. model, -1)) or now
  local window = math.ceil(margin * (now - oldest + wait_ms))
  local known = whole(read('HGET', limit, 'window'))
  call('HSET', limit, 'most', most, 'window', math.min(window, known or window))
  call('PEXPIRE', limit, kept_ms)
  return 1
end

function steps.open_gate(model)
  return call('DEL', gate_key(model))
end

-- A call that was under way when the pause began is refused, too: it tells nothing new.
function steps.pause_all(least_ms, most_ms, probe_ms)
  local known = call('HMGET', account, 'ends', 'length')
  local ends, length = tonumber(known[1] or 0), tonumber(known[2] or 0)
  if now >= ends then
    length = math.max(least_ms, math.min(2 * length, most_ms))
    ends = now + length
  end
  ends = math.max(ends, now + least_ms)
  call('HSET', account, 'ends', ends, 'length', length, 'probe', probe_ms)
  call('PEXPIRE', account, ends - now + FORGOTTEN_MS)
  return 1
end

function steps.resume_all()
  return call('DEL', account)
end
