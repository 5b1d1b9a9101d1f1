-- limit, problem -> {'grace' | 'reaped', id, id, ...}
local limit = tonumber(arg(1))

-- After an outage every lease looks ended although its worker is alive. An outage shows as a server that was started
-- anew, or as half a lease without anybody reaping: then all leases start again.
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local last = redis.call('HMGET', REAPER, 'run_id', 'at')
local outage = last[1] ~= run_id or NOW - tonumber(last[2]) > LEASE / 2
redis.call('HSET', REAPER, 'run_id', run_id, 'at', str(NOW))

local expired = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', str(NOW), 'LIMIT', 0, limit)
for _, member in ipairs(expired) do forget(member) end

if outage then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', str(NOW + LEASE))) do
    redis.call('ZADD', LEASES, str(NOW + LEASE), id)
    for _, helper in ipairs(redis.call('ZRANGE', helpers_key(id), 0, -1)) do
      redis.call('ZADD', helpers_key(id), 'GT', str(NOW + LEASE), helper)
    end
  end
  return {'grace'}
end

local reaped = {'reaped'}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', str(NOW), 'LIMIT', 0, limit)) do
  local job = load(id)
  if not job or job.state ~= 'running' then
    redis.call('ZREM', LEASES, id)
  else
    redis.call('HDEL', job_key(id), 'owner')
    if job.cancel_requested or may_retry(job) then
      redis.call('HSET', job_key(id), 'last_error', arg(2))
      requeue(job, job.created_at)
    else
      finish(job, 'failed', 'error', arg(2))
    end
    reaped[#reaped + 1] = id
  end
end
return reaped
