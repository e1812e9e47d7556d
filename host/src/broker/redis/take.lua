-- KEYS: stream, waits. ARGV: group, consumer, dead and free as in idle.lua, cursor, how many at most.
-- Takes over what nobody has worked on for so long. Returns the next cursor, and of each message its id, how often it was
-- delivered, its fields. JUSTID: a takeover does not count as a delivery, for nobody knows whether one was begun.
local stream, waits = KEYS[1], KEYS[2]
local group, consumer, dead, free = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local reply = redis.call('XAUTOCLAIM', stream, group, consumer, dead, ARGV[5], 'COUNT', ARGV[6], 'JUSTID')
local messages = {}
for _, id in ipairs(reply[2]) do
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  local time = idle(waits, id, dead, free)
  if not (entry and pending) then
    -- Somebody has deleted it: it will never be there again.
    redis.call('XACK', stream, group, id)
  elseif time ~= free then
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', time, 'JUSTID')
  else
    messages[#messages + 1] = { id, pending[4], entry[2] }
  end
end
return { reply[1], messages }
