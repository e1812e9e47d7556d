-- KEYS: stream, due. ARGV: declare, max-length or 0, due or 0, a unique text, fields.
local stream, due = KEYS[1], KEYS[2]
local most, at = tonumber(ARGV[2]), tonumber(ARGV[3])

if ARGV[1] == '0' and redis.call('EXISTS', stream) == 0 then return 'missing' end

if most > 0 then
  local later = redis.call('ZCARD', due)
  if redis.call('XLEN', stream) + later >= most then
    -- What all have had makes room even before its retention has passed.
    local list = groups(stream)
    local needed = lowest(list)
    if needed then trim(stream, needed) end
    -- What is left may be done too, behind a message that is not: only what waits counts.
    local waiting = #list == 0 and redis.call('XLEN', stream) or 0
    for _, group in ipairs(list) do
      waiting = math.max(waiting, group.waiting or redis.call('XLEN', stream))
    end
    if waiting + later >= most then return 'full' end
  end
end

if at > 0 then
  -- The unique text keeps two equal messages apart: a set has each member once.
  redis.call('ZADD', due, at, cmsgpack.pack({ unpack(ARGV, 4) }))
else
  redis.call('XADD', stream, '*', unpack(ARGV, 5))
end
return 'ok'
