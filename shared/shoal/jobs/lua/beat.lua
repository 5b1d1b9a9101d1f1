-- worker, '1' alive | '' leaves, kind, kind, ...
for i = 3, #ARGV - 3 do
  local member = arg(i) .. ' ' .. arg(1)
  if arg(2) == '1' then redis.call('ZADD', WORKERS, str(NOW), member) else redis.call('ZREM', WORKERS, member) end
end
redis.call('ZREMRANGEBYSCORE', WORKERS, '-inf', str(NOW - LEASE))
redis.call('PEXPIRE', WORKERS, str(math.ceil(10 * LEASE / 1000)))
