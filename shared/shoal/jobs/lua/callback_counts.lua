-- -> {callbacks to deliver, callbacks given up}
return {redis.call('ZCARD', CALLBACKS), redis.call('ZCARD', DEAD_CALLBACKS)}
