-- id -> version or nil
return redis.call('HGET', job_key(arg(1)), 'version')
