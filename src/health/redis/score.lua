-- The rules of health::score, applied to many records in one atomic step. A property test holds both to the same results.
--
-- KEYS: one record each. A record is text: state (a, d, i), score, successes, since, counted_since, last_timeout, version, reason.
-- ARGV: channel, time to live (ms), timeout_weight, degraded_at, inactive_at, recovered_after, counters_expire (ms), gone_is_final (0, 1);
-- then five for each key: endpoint, operation, its argument, now (ms), the reporter's own record.
-- Returns two texts for each key: the new record, and the state it came from if this call has caused a transition, else an empty text.
--
-- The reporter's record takes the place of one that is missing here (expired, or the store was flushed) or older (the registry is ahead).

local channel, ttl = ARGV[1], ARGV[2]
local rules = {
  timeout_weight = tonumber(ARGV[3]), degraded_at = tonumber(ARGV[4]), inactive_at = tonumber(ARGV[5]),
  recovered_after = tonumber(ARGV[6]), counters_expire = tonumber(ARGV[7]), gone_is_final = ARGV[8] == '1',
}
local severity = { a = 0, d = 1, i = 2 }

local function decode(text)
  local state, score, successes, since, counted_since, last_timeout, version, reason =
    string.match(text or '', '^([adi]) (%d+) (%d+) (%-?%d+) (%-?%d+) (%-?%d+) (%d+) ?(.*)$')
  if not state then return nil end
  return {
    state = state, score = tonumber(score), successes = tonumber(successes), since = tonumber(since),
    counted_since = tonumber(counted_since), last_timeout = tonumber(last_timeout), version = tonumber(version), reason = reason,
  }
end

local function encode(r)
  return string.format('%s %.0f %.0f %.0f %.0f %.0f %.0f %s',
    r.state, r.score, r.successes, r.since, r.counted_since, r.last_timeout, r.version, r.reason)
end

local function noted(r) return r.state ~= 'a' or r.score > 0 end

local function enter(r, state, reason, now)
  r.state, r.since, r.version, r.reason = state, now, r.version + 1, reason
end

local function clear(r) r.score, r.successes, r.counted_since = 0, 0, 0 end

local function begin_anew(r, reason, now)
  clear(r)
  r.last_timeout = now
  if r.state ~= 'a' then enter(r, 'a', reason, now) end
end

local function add(r, weight, now)
  if r.score == 0 then r.counted_since = now end
  r.score = math.min(r.score + weight, 4294967295)
end

local function fail(r, weight, reason, now)
  add(r, weight, now)
  r.successes = 0
  if r.score >= rules.inactive_at then enter(r, 'i', reason, now)
  elseif r.score >= rules.degraded_at and r.state == 'a' then enter(r, 'd', reason, now) end
end

local function succeed(r, slow, first, now)
  if r.state == 'a' then
    if slow and first then
      add(r, 1, now)
      if r.score >= rules.degraded_at then enter(r, 'd', 'slow', now) end
    else
      clear(r)
    end
  elseif slow then
    if r.successes == 0 then clear(r) end
  else
    r.score = 0
    if r.successes == 0 then r.counted_since = now end
    r.successes = r.successes + 1
    if r.successes >= rules.recovered_after then
      clear(r)
      enter(r, 'a', 'recovered', now)
    end
  end
end

local function apply(r, operation, argument, now)
  if r.counted_since ~= 0 and now - r.counted_since >= rules.counters_expire then clear(r) end
  if operation == 'enabled' then return begin_anew(r, 'enabled', now) end
  if r.state == 'i' then return end
  if operation == 'success' then return succeed(r, string.sub(argument, 1, 1) == '1', string.sub(argument, 2, 2) == '1', now) end
  if operation == 'url_changed' then return begin_anew(r, 'url_changed', now) end
  if operation == 'gone' then
    if rules.gone_is_final then return enter(r, 'i', 'gone', now) end
    return fail(r, 1, 'errors', now)
  end
  if operation == 'filter_too_slow' then return enter(r, 'i', 'filter_too_slow', now) end
  if tonumber(argument) < r.last_timeout and r.last_timeout <= now then return end
  if operation == 'timeout' then
    r.last_timeout = now
    return fail(r, rules.timeout_weight, 'timeouts', now)
  end
  return fail(r, 1, 'errors', now)
end

local function join(stored, ours, now)
  if stored.version > ours.version then return stored end
  if ours.version > stored.version then return ours end
  if stored.state ~= ours.state then
    local worse = severity[stored.state] >= severity[ours.state] and stored or ours
    enter(worse, worse.state, 'merged', now)
    return worse
  end
  stored.score = math.max(stored.score, ours.score)
  stored.successes = stored.score > 0 and 0 or math.min(stored.successes, ours.successes)
  if stored.score == 0 and stored.successes == 0 then stored.counted_since = 0
  elseif stored.counted_since == 0 then stored.counted_since = ours.counted_since
  elseif ours.counted_since ~= 0 then stored.counted_since = math.min(stored.counted_since, ours.counted_since) end
  stored.last_timeout = math.max(stored.last_timeout, ours.last_timeout)
  return stored
end

local results = {}
for n, key in ipairs(KEYS) do
  local at = 8 + (n - 1) * 5
  local endpoint, operation, argument, now = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local ours = decode(ARGV[at + 5])
  local stored = decode(redis.call('GET', key) or nil)
  local was_noted, was_version = stored ~= nil and noted(stored), stored and stored.version or 0
  local record, from, version
  if operation == 'join' then
    local highest = math.max(was_version, ours.version)
    from = stored and stored.state or ours.state
    record, version = stored and join(stored, ours, now) or ours, highest
  else
    record = (stored and stored.version >= ours.version) and stored or ours
    from, version = record.state, record.version
    apply(record, operation, argument, now)
  end
  local text = encode(record)
  redis.call('SET', key, text, 'PX', ttl)
  if noted(record) ~= was_noted or record.version ~= was_version then
    redis.call('PUBLISH', channel, 'record\n' .. endpoint .. '\n' .. text)
  end
  results[2 * n - 1] = text
  results[2 * n] = record.version > version and from or ''
end
return results
