#!lua flags=allow-oom
-- Leave a consumer's mark, and take over entries that were pending for too long: many, or one alone. In one script,
-- because XAUTOCLAIM does not tell whose the entries were, and so that the mark costs no round trip. Works on a full Redis.
--
-- A mark holds the id of the entry that its consumer decodes alone, or nothing. If the consumer died (the mark was not
-- renewed for `silent` ms), each of its entries has one death more. The death while one is decoded alone weighs more, and
-- is only that entry's.
--
-- Returns {id, fields, deaths} of each entry, or false when nothing is idle.
local stream, deaths, my_mark = KEYS[1], KEYS[2], KEYS[3]
local group, me, waiting, marks = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local count, idle, silent, kept = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local before_alone, before_left, alone = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])

redis.call('SET', my_mark, '', 'EX', kept)
-- What another program has written under our names is ours to replace (queue/own_keys.py).
if redis.call('TYPE', deaths).ok ~= 'hash' then redis.call('DEL', deaths) end
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
if consumers.err then
    if consumers.err:find('NOGROUP') or consumers.err:find('no such key') then return false end
    return consumers
end

local claimed, suspect, found = {}, nil, false

local function claim(id, died)
    if died > 0 then
        redis.call('HSET', deaths, id, died)
        redis.call('EXPIRE', deaths, kept)
    end
    -- Nothing, if the entry was deleted: it is then no longer pending.
    for _, entry in ipairs(redis.call('XCLAIM', stream, group, me, idle, id)) do
        table.insert(claimed, {entry[1], entry[2], died})
    end
end

-- Redis' clock may go back; a replica's may be behind. An entry delivered before that has a delivery time in the future and
-- is idle for 0 ms until the clock catches up; count it as delivered now. For one delivered in this very millisecond that
-- changes nothing.
local function forget_future(name)
    local from, found = '-'
    repeat
        found = false
        -- An error where the last id is the greatest one: none follows.
        for _, entry in ipairs(redis.pcall('XPENDING', stream, group, from, '+', 1000, name)) do
            from = '(' .. entry[1]
            if entry[3] == 0 then
                redis.call('XCLAIM', stream, group, name, 0, entry[1], 'IDLE', 0, 'JUSTID')
                found = true
            end
        end
    until not found
end

for _, consumer in ipairs(consumers) do
    local name, pending, held = consumer[2], consumer[4], false
    -- The consumer `waiting` has the entries that only a newer worker can read, however many they are.
    if pending > 0 and name ~= waiting and #claimed < count then
        forget_future(name)
        if name ~= me then
            local left = redis.call('PTTL', marks .. name)
            if left > kept * 1000 then redis.call('EXPIRE', marks .. name, kept) end
            if left > 0 and kept * 1000 - left > silent then held = redis.pcall('GET', marks .. name) end
        end
        -- 100 more than needed, since those that are left, or wait to be tried alone, must not hide the ones behind them.
        local most = count - #claimed + 100
        for _, entry in ipairs(redis.call('XPENDING', stream, group, 'IDLE', idle, '-', '+', most, name)) do
            if #claimed == count then break end
            local id = entry[1]
            local died = tonumber(redis.call('HGET', deaths, id) or 0)
            -- We write no others; a comparison with nan would leave the entry for ever.
            if not died or not (died >= 0 and died <= before_left + alone) then died = 0 end
            if held == id then died = died + alone elseif held == '' then died = died + 1 end
            if died < before_alone then
                found = true
                claim(id, died)
            elseif died < before_left and not suspect then
                suspect = {id, died}
            end
        end
    end
end
if suspect and not found then
    found = true
    redis.call('SET', my_mark, suspect[1], 'EX', kept)
    claim(suspect[1], suspect[2])
end
return found and claimed
