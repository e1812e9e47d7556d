-- KEYS: stream, due. ARGV: retention in milliseconds, or -1.
-- Returns milliseconds until the next message is due, or -1.
local stream, due = KEYS[1], KEYS[2]
local time, retention = now(), tonumber(ARGV[1])

-- This first: it makes room for the rest.
local needed = lowest(groups(stream))
if retention >= 0 then
  local kept = string.format('%.0f-0', time - retention)
  if not needed or before(kept, needed) then needed = kept end
end
if needed then trim(stream, needed) end

-- In this order: an error, as when memory is full, leaves a message where it is.
for _, message in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', time, 'LIMIT', 0, 50)) do
  redis.call('XADD', stream, '*', unpack(cmsgpack.unpack(message), 2))
  redis.call('ZREM', due, message)
end

local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return first[2] and math.max(tonumber(first[2]) - time, 0) or -1
