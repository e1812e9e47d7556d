-- KEYS: stream, due. ARGV: group. Returns how many messages wait, and for how many milliseconds the oldest does; -1: unknown.
local stream, due = KEYS[1], KEYS[2]
if redis.call('EXISTS', stream) == 0 then return { redis.call('ZCARD', due), -1 } end

local waiting, pending, unread = redis.call('XLEN', stream), false, '-'
for _, group in ipairs(groups(stream)) do
  if group.name == ARGV[1] then waiting, pending, unread = group.waiting, group.pending, group.unread end
end

local first = redis.call('XRANGE', stream, unread, '+', 'COUNT', 1)
local oldest = first[1] and first[1][1]
if pending and (not oldest or before(pending, oldest)) then oldest = pending end
local age = oldest and math.max(now() - tonumber(string.match(oldest, '^%d+')), 0) or -1
return { waiting and (waiting + redis.call('ZCARD', due)) or -1, age }
