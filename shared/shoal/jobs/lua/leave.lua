-- id, owner -> {'left'}
redis.call('ZREM', helpers_key(arg(1)), arg(2))
for unit, by in pairs(taken_units(arg(1))) do
  if by.owner == arg(2) then redis.call('HDEL', taken_key(arg(1)), unit) end
end
if redis.call('EXISTS', job_key(arg(1))) == 1 then touch(arg(1)) end
return {'left'}
