-- state or '*', kind or '*', limit, sequence number before which to start or '+inf'
-- -> {cursor of the next page or '', job, job, ...}
local limit = tonumber(arg(3))
local rows = redis.call('ZREVRANGEBYSCORE', index_key(arg(1), arg(2)), arg(4), '-inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
local page = {''}
if #rows > 2 * limit then page[1] = rows[2 * limit] end
for i = 1, math.min(#rows, 2 * limit), 2 do
  local job = dump(rows[i])
  if #job > 0 then page[#page + 1] = job end
end
return page
