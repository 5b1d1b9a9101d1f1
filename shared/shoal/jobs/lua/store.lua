-- store -> {'bound'} | {'foreign', store}
local other = foreign(arg(1))
if other then return {'foreign', other} end
return {'bound'}
