-- KEYS: stream. ARGV: group, how names begin, milliseconds. Deletes consumers that have nothing and were not seen for so
-- long. One that lives after all is made again by its next read.
for _, reply in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #reply, 2 do consumer[reply[i]] = reply[i + 1] end
  local ours = string.sub(consumer.name, 1, #ARGV[2]) == ARGV[2]
  if ours and consumer.pending == 0 and consumer.idle > tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
