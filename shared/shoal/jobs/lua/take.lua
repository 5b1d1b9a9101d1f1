-- id, owner, attempt, helper '1' | '', missing units as [[first, last], ...], most workers or 0
-- -> {'unit', number} | {'held'}: others are at all that is missing | {'none'} | {'lost'}
local job = load(arg(1))
local owner, helper = arg(2), arg(4) == '1'
if helper then
  if not helps(job, owner) then return {'lost'} end
elseif not held(arg(1), owner, arg(3)) then
  return {'lost'}
end
local alive = {[job.owner or ''] = true, [owner] = true}
for _, each in ipairs(live_helpers(job.id)) do alive[each] = true end
local taken = taken_units(job.id)
local chosen, left, busy
for _, span in ipairs(cjson.decode(arg(5))) do
  for unit = span[1], span[2] do
    local by = taken[str(unit)]
    if by and by.owner ~= owner and alive[by.owner] then
      busy = true
    elseif chosen then
      left = true
      break
    else
      chosen = unit
    end
  end
  if left then break end
end
if chosen then redis.call('HSET', taken_key(job.id), str(chosen), owner .. ' 0') end
if not left then
  redis.call('ZREM', shared_key(job.kind), job.id)
elseif not helper and arg(6) ~= '1' then
  redis.call('HSET', job_key(job.id), 'most', arg(6))
  if redis.call('ZADD', shared_key(job.kind), job.seq, job.id) == 1 then ring(job.kind) end
end
if chosen then return {'unit', str(chosen)} end
return {busy and 'held' or 'none'}
