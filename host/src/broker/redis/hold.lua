-- KEYS: stream, waits. ARGV: group, consumer, id, what: 'keep', 'release' or 'failed', and its number.
-- Changes what the group knows of a message that the consumer has; one that somebody else has by now is left alone.
-- JUSTID: none of this is a delivery.
local stream, waits = KEYS[1], KEYS[2]
local group, consumer, id, what, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if #redis.call('XPENDING', stream, group, id, id, 1, consumer) == 0 then return end

if what == 'keep' then
  redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID')
elseif what == 'release' then
  redis.call('ZREM', waits, id)
  redis.call('XCLAIM', stream, group, consumer, 0, id, 'IDLE', number, 'JUSTID')
else
  redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', number, 'JUSTID')
  -- Waits that are over say nothing any more.
  redis.call('ZREMRANGEBYSCORE', waits, '-inf', string.format('%.0f', now()))
  redis.call('ZADD', waits, ARGV[6], id)
end
