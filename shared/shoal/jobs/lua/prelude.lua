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

local OFFSET, LEASE, RETENTION = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local MARGIN = 3600 * 1000000
local function arg(i) return ARGV[i + 3] end

local function key(...) return table.concat({KEYS[1], ...}, ':') end
local function job_key(id) return key('job', id) end
local function ready_key(kind) return key('ready', kind) end
local function index_key(state, kind) return key('index', state, kind) end
local function idempotency_key(digest) return key('idempotency', digest) end
local LEASES, EXPIRY, KINDS = key('leases'), key('expiry'), key('kinds')
local WORKERS, REAPER, SEQUENCE = key('workers'), key('reaper'), key('sequence')

local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2]) + OFFSET
-- Lua would write a time as 1.79e+15.
local function str(number) return string.format('%.0f', number) end

local function dump(id) return redis.call('HGETALL', job_key(id)) end

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

-- 'held' if this claim itself has ended the job in this state before, and only the answer was lost on the way.
local function said_before(id, owner, attempt, state)
  local job = load(id)
  local same = job and job.state == state and job.owner == owner and job.attempt == attempt
  return {same and 'held' or 'lost'}
end

local function finish(job, state, field, value)
  redis.call('ZREM', ready_key(job.kind), job.id)
  redis.call('ZREM', LEASES, job.id)
  redis.call('HDEL', job_key(job.id), 'checkpoint', 'last_error')
  redis.call('HSET', job_key(job.id), 'finished_at', str(NOW))
  if field then redis.call('HSET', job_key(job.id), field, value) end
  redis.call('ZADD', EXPIRY, str(NOW + RETENTION), state .. ' ' .. job.kind .. ' ' .. job.id)
  -- The sweep of `reap` forgets it; this end is for a server on which nobody reaps.
  local last = str(math.floor((NOW + RETENTION + MARGIN) / 1000))
  redis.call('PEXPIREAT', job_key(job.id), last)
  if job.idempotency then redis.call('PEXPIREAT', idempotency_key(job.idempotency), last) end
  move(job, state)
end

-- Back into the queue. A wish to cancel that came meanwhile wins.
local function requeue(job, ready_at)
  if job.cancel_requested then return finish(job, 'cancelled') end
  redis.call('ZREM', LEASES, job.id)
  redis.call('HDEL', job_key(job.id), 'owner', 'progress')
  redis.call('ZADD', ready_key(job.kind), ready_at, job.id)
  move(job, 'queued')
end
