-- id, owner, how much is done of each unit as {"unit": done, ...} or '' -> {'held', cancel requested '1' | ''} | {'lost'}
-- A place whose lease has ended is held as well: an outage of the server ends no help.
local job = load(arg(1))
if not helps(job, arg(2)) then return {'lost'} end
redis.call('ZADD', helpers_key(job.id), str(NOW + LEASE), arg(2))
if arg(3) ~= '' then
  local open = cjson.decode(arg(3))
  for unit, by in pairs(taken_units(job.id)) do
    if by.owner == arg(2) and open[unit] then
      redis.call('HSET', taken_key(job.id), unit, arg(2) .. ' ' .. str(open[unit]))
    elseif by.owner == arg(2) and by.done > 0 then
      redis.call('HDEL', taken_key(job.id), unit)  -- It has its result.
    end
  end
end
return {'held', job.cancel_requested or ''}
