-- id, owner, attempt, 'succeeded' | 'cancelled', result or '' -> {'held'} | {'lost'}
local job = held(arg(1), arg(2), arg(3))
if not job then return said_before(arg(1), arg(2), arg(3), arg(4)) end
if arg(4) == 'succeeded' then finish(job, 'succeeded', 'result', arg(5)) else finish(job, 'cancelled') end
return {'held'}
