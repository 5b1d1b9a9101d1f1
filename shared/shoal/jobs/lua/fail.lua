-- id, owner, attempt, problem, retry '1' | '', delay -> {'held'} | {'lost'}
local job = held(arg(1), arg(2), arg(3))
if not job then return said_before(arg(1), arg(2), arg(3), 'failed') end
if arg(5) == '1' and may_retry(job) then
  redis.call('HSET', job_key(job.id), 'last_error', arg(4))
  requeue(job, str(NOW + tonumber(arg(6))))
else
  finish(job, 'failed', 'error', arg(4))
end
return {'held'}
