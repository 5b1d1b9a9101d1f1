-- -> {job, job, ...}: all that are queued or running, as they are at this moment
-- In one step: a job that is claimed or handed back between two questions would be in neither answer.
local jobs = {}
for _, state in ipairs({'queued', 'running'}) do
  for _, id in ipairs(redis.call('ZRANGE', index_key(state, '*'), 0, -1)) do
    local job = dump(id)
    if #job > 0 then jobs[#jobs + 1] = job end
  end
end
return jobs
