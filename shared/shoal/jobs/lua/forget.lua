-- age, limit, really -> number of jobs that ended at least `age` ago; forgotten when `really` is '1'
-- A job's expiry is its end plus the retention, so its age can be read from there.
local old = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', str(NOW + RETENTION - tonumber(arg(1))), 'LIMIT', 0, arg(2))
if arg(3) == '1' then
  for _, member in ipairs(old) do forget(member) end
end
return #old
