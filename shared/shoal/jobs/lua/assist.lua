-- owner, ids to avoid with spaces between, kind, kind, ... -> {'helping', job} | {'none'}
-- A place at the shared job that has the fewest workers. A job that waits goes first.
for i = 3, #ARGV - 3 do
  if #redis.call('ZRANGEBYSCORE', ready_key(arg(i)), '-inf', str(NOW), 'LIMIT', 0, 1) > 0 then return {'none'} end
end
local best, fewest
for i = 3, #ARGV - 3 do
  for _, id in ipairs(redis.call('ZRANGE', shared_key(arg(i)), 0, -1)) do
    local most, helpers = tonumber(redis.call('HGET', job_key(id), 'most') or 0), #live_helpers(id)
    local avoided = string.find(' ' .. arg(2) .. ' ', ' ' .. id .. ' ', 1, true)
    if not avoided and (most == 0 or helpers + 1 < most) and (not fewest or helpers < fewest) then
      best, fewest = id, helpers
    end
  end
end
if not best then return {'none'} end
redis.call('ZADD', helpers_key(best), str(NOW + LEASE), arg(1))
touch(best)
return {'helping', dump(best)}
