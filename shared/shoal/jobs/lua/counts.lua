-- state, state, ... -> {jobs, jobs, ...}
local counts = {}
for i = 1, #ARGV - 3 do counts[i] = redis.call('ZCARD', index_key(arg(i), '*')) end
return counts
