-- idempotency digest, request digest -> {'existing', job} | {'conflict', id} | {'unknown'}
local known = redis.call('HMGET', idempotency_key(arg(1)), 'job', 'request')
if not known[1] or redis.call('EXISTS', job_key(known[1])) == 0 then return {'unknown'} end
if known[2] ~= arg(2) then return {'conflict', known[1]} end
return {'existing', dump(known[1])}
