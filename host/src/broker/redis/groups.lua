-- What the other scripts know about a stream's groups. Stream ids are compared as text: a double does not hold all of them.
local function smaller(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

local function before(a, b)
  local a_time, a_number = string.match(a, '^(%d+)-(%d+)$')
  local b_time, b_number = string.match(b, '^(%d+)-(%d+)$')
  if a_time ~= b_time then return smaller(a_time, b_time) end
  return smaller(a_number, b_number)
end

-- The id that follows.
local function after(id)
  local time, number = string.match(id, '^(%d+)-(%d+)$')
  if #number > 15 then return id end
  return time .. '-' .. string.format('%.0f', tonumber(number) + 1)
end

-- For each group: its name, the lowest id it still needs, the id it has read up to, how many messages wait for it
-- (nil where the server cannot tell).
local function groups(stream)
  local list = {}
  if redis.call('EXISTS', stream) == 0 then return list end
  for _, reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
    local pending = redis.call('XPENDING', stream, group.name)
    local unread = after(group['last-delivered-id'])
    local needs = unread
    if pending[2] and before(pending[2], needs) then needs = pending[2] end
    -- Servers before 7.0 have no lag, and later ones lose it where entries are deleted one by one.
    local waiting = group.lag and (pending[1] + group.lag) or nil
    list[#list + 1] = { name = group.name, needs = needs, pending = pending[2], unread = unread, waiting = waiting }
  end
  return list
end

-- The lowest id that any group still needs; nil without groups.
local function lowest(list)
  local id
  for _, group in ipairs(list) do
    if not id or before(group.needs, id) then id = group.needs end
  end
  return id
end

-- Drops what is before the id: whole nodes of the stream as long as there are some, which is cheap, then the rest.
local function trim(stream, id)
  if redis.call('XTRIM', stream, 'MINID', '~', id, 'LIMIT', 10000) == 0 then
    redis.call('XTRIM', stream, 'MINID', id)
  end
end

