-- How long a message has to look idle so that it is taken over as soon as it may be: at once, or when its wait is over.
-- `dead` is the idle time in milliseconds after which anybody takes it, `free` is much longer.
local function idle(waits, id, dead, free)
  local due = redis.call('ZSCORE', waits, id)
  local wait = due and (tonumber(due) - now()) or 0
  if wait <= 0 then return free end
  -- Longer waits than can be told so are looked at again on the way.
  return string.format('%.0f', math.max(dead - wait, 0))
end

