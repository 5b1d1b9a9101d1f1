-- owner, store, kind, kind, ... -> {'claimed', job} | {'none'} | {'foreign', store}
-- A kind goes before those named behind it; within a kind the job that has waited longest.
local other = foreign(arg(2))
if other then return {'foreign', other} end
for i = 3, #ARGV - 3 do
  local id = redis.call('ZRANGEBYSCORE', ready_key(arg(i)), '-inf', str(NOW), 'LIMIT', 0, 1)[1]
  if id then
    redis.call('ZREM', ready_key(arg(i)), id)
    local job = load(id)
    if not job or job.state ~= 'queued' then return {'none'} end
    redis.call('HINCRBY', job_key(id), 'attempt', 1)
    redis.call('HSET', job_key(id), 'owner', arg(1))
    redis.call('HSETNX', job_key(id), 'started_at', str(NOW))
    redis.call('ZADD', LEASES, str(NOW + LEASE), id)
    move(job, 'running')
    return {'claimed', dump(id)}
  end
end
return {'none'}
