-- KEYS: stream, waits. ARGV: group, consumer, dead and free as in idle.lua, and an id or nothing.
-- Lets everybody take over at once what the consumer has, or only the one message. A consumer that has nothing is deleted.
-- One that has something is not, for that would drop it.
local stream, waits = KEYS[1], KEYS[2]
local group, consumer, dead, free, only = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local from, to = only or '-', only or '+'
repeat
  local pending = redis.call('XPENDING', stream, group, from, to, 500, consumer)
  for _, one in ipairs(pending) do
    redis.call('XCLAIM', stream, group, consumer, 0, one[1], 'IDLE', idle(waits, one[1], dead, free), 'JUSTID')
    from = '(' .. one[1]
  end
until only or #pending == 0
if not only and #redis.call('XPENDING', stream, group, '-', '+', 1, consumer) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
end
