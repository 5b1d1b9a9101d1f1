-- id, kind, request, max_attempts, idempotency digest or '', request digest, store, callback's URL or ''
-- -> {'created' | 'existing', job} | {'conflict', id} | {'foreign', store}
local other = foreign(arg(7))
if other then return {'foreign', other} end
local id, kind, request, max_attempts, digest, request_digest = arg(1), arg(2), arg(3), arg(4), arg(5), arg(6)
if digest ~= '' then
  local known = redis.call('HMGET', idempotency_key(digest), 'job', 'request')
  if known[1] and redis.call('EXISTS', job_key(known[1])) == 1 then
    if known[2] ~= request_digest then return {'conflict', known[1]} end
    return {'existing', dump(known[1])}
  end
end
-- The client chose the id, so that a call repeated after a lost answer makes no second job.
if redis.call('EXISTS', job_key(id)) == 1 then return {'created', dump(id)} end

local seq = redis.call('INCR', SEQUENCE)
redis.call('HSET', job_key(id), 'id', id, 'kind', kind, 'state', 'queued', 'seq', seq, 'created_at', str(NOW),
  'attempt', 0, 'max_attempts', max_attempts, 'request', request, 'version', 1)
if digest ~= '' then
  redis.call('HSET', job_key(id), 'idempotency', digest)
  redis.call('DEL', idempotency_key(digest))
  redis.call('HSET', idempotency_key(digest), 'job', id, 'request', request_digest)
end
for _, state in ipairs({'*', 'queued'}) do
  redis.call('ZADD', index_key(state, '*'), seq, id)
  redis.call('ZADD', index_key(state, kind), seq, id)
end
if arg(8) ~= '' then redis.call('HSET', job_key(id), 'callback', arg(8)) end
redis.call('SADD', KINDS, kind)
redis.call('ZADD', ready_key(kind), str(NOW), id)
ring(kind)
return {'created', dump(id)}
