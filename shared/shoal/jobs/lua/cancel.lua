-- id -> {'cancelled' | 'requested' | 'ended', job} | {'missing'}
local job = load(arg(1))
if not job then return {'missing'} end
local answer = 'ended'
if job.state == 'queued' then
  finish(job, 'cancelled')
  answer = 'cancelled'
elseif job.state == 'running' then
  if not job.cancel_requested then
    redis.call('HSET', job_key(job.id), 'cancel_requested', 1)
    touch(job.id)
  end
  answer = 'requested'
end
return {answer, dump(job.id)}
