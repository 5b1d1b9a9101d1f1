-- -> {id, ...}
-- For whoever knows that no worker lives: what runs is queued again without a wait, and the attempt does not count.
local taken = {}
for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
  local job = load(id)
  if job and job.state == 'running' then
    redis.call('HINCRBY', job_key(id), 'attempt', -1)
    requeue(job, job.created_at)
    taken[#taken + 1] = id
  end
end
return taken
