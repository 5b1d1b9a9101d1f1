-- worker, '1' alive | '' leaves, store, kind, kind, ... -> {'bound'} | {'foreign', store}
local other = arg(2) == '1' and foreign(arg(3)) or nil
if other then return {'foreign', other} end
for i = 4, #ARGV - 3 do
  local member = arg(i) .. ' ' .. arg(1)
  if arg(2) == '1' then redis.call('ZADD', WORKERS, str(NOW), member) else redis.call('ZREM', WORKERS, member) end
end
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', str(NOW - LEASE))
redis.call('PEXPIRE', WORKERS, str(math.ceil(10 * LEASE / 1000)))
return {'bound'}
