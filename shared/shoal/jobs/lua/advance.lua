-- id, owner, attempt, mark -> {'held'} | {'lost'}
local job = held(arg(1), arg(2), arg(3))
if not job then return {'lost'} end
if tonumber(arg(4)) > tonumber(job.mark or 0) then
  redis.call('HSET', job_key(job.id), 'mark', arg(4), 'advanced', job.attempt)
end
return {'held'}
