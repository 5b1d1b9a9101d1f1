-- id, attempt, 'delivered' | 'pending' | 'dead', error or '', delay -> {'held'} | {'lost'}
-- The number of the attempt is the fence: a later one has the callback now, or it is settled.
local job = load(arg(1))
if not job or job.callback_attempts ~= arg(2) or job.callback_state ~= 'pending' then return {'lost'} end
redis.call('HSET', job_key(job.id), 'callback_state', arg(3))
redis.call('HDEL', job_key(job.id), 'callback_error', 'callback_due')
if arg(4) ~= '' then redis.call('HSET', job_key(job.id), 'callback_error', arg(4)) end
if arg(3) == 'pending' then
  local due = str(NOW + tonumber(arg(5)))
  redis.call('HSET', job_key(job.id), 'callback_due', due)
  redis.call('ZADD', CALLBACKS, due, job.id)
else
  redis.call('ZREM', CALLBACKS, job.id)
  if arg(3) == 'dead' then redis.call('ZADD', DEAD_CALLBACKS, str(NOW), job.id) end
end
touch(job.id)
return {'held'}
