-- KEYS: stream. ARGV: group, consumer, id. 1 if the consumer still had the message: else somebody works on it, or will.
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return 0 end
return redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
