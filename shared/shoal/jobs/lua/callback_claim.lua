-- hold -> {'claimed', job} | {'none'}
-- The one that waits longest. Another process may have it once `hold` is over: then its owner most likely died.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', CALLBACKS, '-inf', str(NOW), 'LIMIT', 0, 100)) do
  if redis.call('HEXISTS', job_key(id), 'callback') == 1 then
    redis.call('HINCRBY', job_key(id), 'callback_attempts', 1)
    redis.call('ZADD', CALLBACKS, str(NOW + tonumber(arg(1))), id)
    return {'claimed', dump(id)}
  end
  redis.call('ZREM', CALLBACKS, id)
end
return {'none'}
