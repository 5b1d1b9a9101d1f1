-- id, owner, attempt, checkpoint -> {'held'} | {'lost'}
local job = held(arg(1), arg(2), arg(3))
if not job then return {'lost'} end
redis.call('HSET', job_key(job.id), 'checkpoint', arg(4))
touch(job.id)
return {'held'}
