-- owner, kind, kind, ... -> {'claimed', job} | {'none'}
local best, best_at, best_kind
for i = 2, #ARGV - 3 do
  local first = redis.call('ZRANGEBYSCORE', ready_key(arg(i)), '-inf', str(NOW), 'WITHSCORES', 'LIMIT', 0, 1)
  if first[1] and (not best or tonumber(first[2]) < best_at) then
    best, best_at, best_kind = first[1], tonumber(first[2]), arg(i)
  end
end
if not best then return {'none'} end
redis.call('ZREM', ready_key(best_kind), best)
local job = load(best)
if not job or job.state ~= 'queued' then return {'none'} end
redis.call('HINCRBY', job_key(best), 'attempt', 1)
redis.call('HSET', job_key(best), 'owner', arg(1))
redis.call('HSETNX', job_key(best), 'started_at', str(NOW))
redis.call('ZADD', LEASES, str(NOW + LEASE), best)
move(job, 'running')
return {'claimed', dump(best)}
