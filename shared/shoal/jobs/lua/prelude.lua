-- Starts every script: the keys, the clock, and the steps that transitions share.
--
-- KEYS[1] is the prefix of every key. ARGV[1..3] are the same for every script: the clock's offset (tests only), the
-- lease and the retention of ended jobs; a script's own arguments start behind them: arg(1), arg(2), ...
-- Times are microseconds since the epoch on the server's clock, so that clocks of different machines never meet.
--
--   <prefix>:job:<id>                hash     the job; `version` grows with every change
--   <prefix>:ready:<kind>            zset     queued ids by the time from which they may be claimed
--   <prefix>:leases                  zset     running ids by the time at which their lease ends
--   <prefix>:index:<state>:<kind>    zset     ids by sequence number; `*` stands for any state or kind
--   <prefix>:expiry                  zset     "state kind id" of ended jobs by the time at which they are forgotten
--   <prefix>:idempotency:<digest>    hash     job and request digest of an Idempotency-Key; lives as long as its job
--   <prefix>:kinds                   set      kinds that have jobs
--   <prefix>:workers                 zset     "kind worker" by last heartbeat
--   <prefix>:reaper                  hash     run id of the server and time of the last reaping
--   <prefix>:sequence                counter  of submitted jobs
--   <prefix>:store                   string   "id place" of the store that all jobs are of
--   <prefix>:callbacks               zset     ended ids whose callback is to be delivered by the time of the next attempt
--   <prefix>:callbacks:dead          zset     ended ids whose callback was given up by the time of their end
--   <prefix>:shared:<kind>           zset     running ids of which other workers can take units, by sequence number
--   <prefix>:helpers:<id>            zset     owners that help with a job by the time at which their lease ends
--   <prefix>:taken:<id>              hash     units of a shared job: "owner done"
--   <prefix>:bell:<kind>             channel  a message when a job of the kind can be claimed
--
-- A job's `credited` is the number of attempts that do not count towards `max_attempts`: those up to the last one that
-- got further than any before (`mark`, a number that grows with what is kept; `advanced` is that attempt).

local OFFSET, LEASE, RETENTION = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local MARGIN = 3600 * 1000000
local function arg(i) return ARGV[i + 3] end

local function key(...) return table.concat({KEYS[1], ...}, ':') end
local function job_key(id) return key('job', id) end
local function ready_key(kind) return key('ready', kind) end
local function index_key(state, kind) return key('index', state, kind) end
local function idempotency_key(digest) return key('idempotency', digest) end
local function shared_key(kind) return key('shared', kind) end
local function helpers_key(id) return key('helpers', id) end
local function taken_key(id) return key('taken', id) end
local LEASES, EXPIRY, KINDS = key('leases'), key('expiry'), key('kinds')
local WORKERS, REAPER, SEQUENCE, STORE = key('workers'), key('reaper'), key('sequence'), key('store')
local CALLBACKS, DEAD_CALLBACKS = key('callbacks'), key('callbacks:dead')

local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2]) + OFFSET
-- Lua would write a time as 1.79e+15.
local function str(number) return string.format('%.0f', number) end

-- The workers that help with a job and renew their leases.
local function live_helpers(id)
  return redis.call('ZRANGEBYSCORE', helpers_key(id), '(' .. str(NOW), '+inf')
end

local function dump(id)
  local job, helpers = redis.call('HGETALL', job_key(id)), #live_helpers(id)
  if #job > 0 and helpers > 0 then
    job[#job + 1] = 'helpers'
    job[#job + 1] = str(helpers)
  end
  return job
end

local function load(id)
  local flat, job = dump(id), {}
  for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
  return job.id and job or nil
end

local function touch(id) redis.call('HINCRBY', job_key(id), 'version', 1) end

local function move(job, state)
  for _, kind in ipairs({'*', job.kind}) do
    redis.call('ZREM', index_key(job.state, kind), job.id)
    redis.call('ZADD', index_key(state, kind), job.seq, job.id)
  end
  redis.call('HSET', job_key(job.id), 'state', state)
  job.state = state
  touch(job.id)
end

-- The job if this claim still holds its lease, nil if another worker or nobody does.
local function held(id, owner, attempt)
  local job = load(id)
  if job and job.state == 'running' and job.owner == owner and job.attempt == attempt then return job end
  return nil
end

-- Whether `owner` has a place at the job, which may be between two attempts.
local function helps(job, owner)
  local unfinished = job and (job.state == 'running' or job.state == 'queued')
  return unfinished and redis.call('ZSCORE', helpers_key(job.id), owner)
end

-- The units of a shared job that somebody has begun, by number: their owner, and how much is done.
local function taken_units(id)
  local flat, units = redis.call('HGETALL', taken_key(id)), {}
  for i = 1, #flat, 2 do
    local owner, done = string.match(flat[i + 1], '^(%S+) (%d+)$')
    units[flat[i]] = {owner = owner, done = tonumber(done)}
  end
  return units
end

-- The store that the queue belongs to if that is another than `store` ("id place", '' asks for none); else nil.
-- A queue belongs to the first store that uses it, until nothing of that store's waits, runs or works any more.
local function foreign(store)
  if store == '' then return nil end
  local bound = redis.call('GET', STORE)
  if bound then
    if string.match(bound, '^%S+') == string.match(store, '^%S+') then return nil end
    local busy = redis.call('ZCARD', index_key('queued', '*')) + redis.call('ZCARD', index_key('running', '*'))
      + redis.call('ZCOUNT', WORKERS, '(' .. str(NOW - LEASE), '+inf')
    if busy > 0 then return bound end
  end
  redis.call('SET', STORE, store)
  return nil
end

-- Whether one more attempt may follow the one that has just failed.
local function may_retry(job)
  local credited = tonumber(job.credited or 0)
  if job.advanced == job.attempt then credited = tonumber(job.attempt) end
  return tonumber(job.attempt) - credited < tonumber(job.max_attempts)
end

-- 'held' if this claim itself has ended the job in this state before, and only the answer was lost on the way.
local function said_before(id, owner, attempt, state)
  local job = load(id)
  local same = job and job.state == state and job.owner == owner and job.attempt == attempt
  return {same and 'held' or 'lost'}
end

local function finish(job, state, field, value)
  redis.call('ZREM', ready_key(job.kind), job.id)
  redis.call('ZREM', LEASES, job.id)
  redis.call('ZREM', shared_key(job.kind), job.id)
  redis.call('DEL', helpers_key(job.id), taken_key(job.id))
  redis.call('HDEL', job_key(job.id), 'checkpoint', 'mark', 'advanced', 'most')
  redis.call('HSET', job_key(job.id), 'finished_at', str(NOW))
  if field then redis.call('HSET', job_key(job.id), field, value) end
  redis.call('ZADD', EXPIRY, str(NOW + RETENTION), state .. ' ' .. job.kind .. ' ' .. job.id)
  -- The sweep of `reap` forgets it; this end is for a server on which nobody reaps.
  local last = str(math.floor((NOW + RETENTION + MARGIN) / 1000))
  redis.call('PEXPIREAT', job_key(job.id), last)
  if job.idempotency then redis.call('PEXPIREAT', idempotency_key(job.idempotency), last) end
  -- Every end of a job comes through here, so none is without its callback.
  if job.callback then
    redis.call('HSET', job_key(job.id), 'callback_state', 'pending')
    redis.call('ZADD', CALLBACKS, str(NOW), job.id)
  end
  move(job, state)
end

-- Says to the workers that wait that there is a job. One that may not publish need not: workers ask now and then.
local function ring(kind) redis.pcall('PUBLISH', key('bell', kind), '') end

-- Back into the queue. A wish to cancel that came meanwhile wins.
local function requeue(job, ready_at)
  if job.cancel_requested then return finish(job, 'cancelled') end
  redis.call('ZREM', LEASES, job.id)
  redis.call('ZREM', shared_key(job.kind), job.id)
  if job.advanced == job.attempt then
    redis.call('HSET', job_key(job.id), 'credited', redis.call('HGET', job_key(job.id), 'attempt'))
  end
  redis.call('HDEL', job_key(job.id), 'owner', 'progress', 'advanced')
  redis.call('ZADD', ready_key(job.kind), ready_at, job.id)
  move(job, 'queued')
  if tonumber(ready_at) <= NOW then ring(job.kind) end
end

-- Remove every trace of an ended job, named as its member of EXPIRY.
local function forget(member)
  local state, kind, id = string.match(member, '^(%S+) (%S+) (%S+)$')
  for _, s in ipairs({'*', state}) do
    redis.call('ZREM', index_key(s, '*'), id)
    redis.call('ZREM', index_key(s, kind), id)
  end
  local digest = redis.call('HGET', job_key(id), 'idempotency')
  if digest and redis.call('HGET', idempotency_key(digest), 'job') == id then
    redis.call('DEL', idempotency_key(digest))
  end
  redis.call('DEL', job_key(id))
  redis.call('ZREM', CALLBACKS, id)
  redis.call('ZREM', DEAD_CALLBACKS, id)
  redis.call('ZREM', EXPIRY, member)
  if redis.call('EXISTS', index_key('*', kind)) == 0 then redis.call('SREM', KINDS, kind) end
end
