-- -> {'kind worker', last heartbeat, ...} of the workers that are alive
return redis.call('ZRANGEBYSCORE', WORKERS, '(' .. str(NOW - LEASE), '+inf', 'WITHSCORES')
