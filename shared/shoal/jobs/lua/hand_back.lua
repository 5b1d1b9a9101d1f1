-- id, owner, attempt -> {'held'} | {'lost'}
-- Not the job's fault: the attempt does not count, and the job goes before those submitted after it.
local job = held(arg(1), arg(2), arg(3))
if not job then return {'lost'} end
redis.call('HINCRBY', job_key(job.id), 'attempt', -1)
requeue(job, job.created_at)
return {'held'}
