-- id -> {'found', job} | {'missing'}
local job = dump(arg(1))
if #job == 0 then return {'missing'} end
return {'found', job}
