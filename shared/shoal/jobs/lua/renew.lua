-- id, owner, attempt, progress or ''
-- -> {'held', cancel requested '1' | '', unit, done, ... of the units that helpers are at} | {'lost'}
-- A lease that has ended is renewed as well, as long as nobody has taken the job: the work of days survives an outage.
local job = held(arg(1), arg(2), arg(3))
if not job then return {'lost'} end
redis.call('ZADD', LEASES, str(NOW + LEASE), job.id)
if arg(4) ~= '' and arg(4) ~= job.progress then
  redis.call('HSET', job_key(job.id), 'progress', arg(4))
  touch(job.id)
end
local reply, alive = {'held', job.cancel_requested or ''}, {}
if job.helpers then
  for _, each in ipairs(live_helpers(job.id)) do alive[each] = true end
  for unit, by in pairs(taken_units(job.id)) do
    if alive[by.owner] and by.done > 0 then
      reply[#reply + 1] = unit
      reply[#reply + 1] = str(by.done)
    end
  end
end
return reply
