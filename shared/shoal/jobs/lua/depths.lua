-- -> {kind, queued jobs, ...}
local depths = {}
for _, kind in ipairs(redis.call('SMEMBERS', KINDS)) do
  depths[#depths + 1] = kind
  depths[#depths + 1] = redis.call('ZCARD', index_key('queued', kind))
end
return depths
