-- Append to a reply's log, if the caller is still its writer.
-- KEYS[1] the log
-- ARGV[1] the id expected on top: an id, '' for an empty log, '*' for a writer that starts or re-bases
-- ARGV[2] the writer's epoch   ARGV[3] lifetime in ms   ARGV[4] owner   ARGV[5...] id, type, data of each entry
-- Answers ok (also for an append that was applied before and whose answer was lost), fenced, or lost.
local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local top_id = ''
if top[1] then top_id = top[1][1] end
if top_id == ARGV[#ARGV - 2] then return 'ok' end
local epoch = tonumber(ARGV[2])
local top_epoch = tonumber(string.match(top_id, '^(%d+)') or '0')
if top_epoch > epoch then return 'fenced' end
if ARGV[1] ~= '*' and ARGV[1] ~= top_id then return 'lost' end
for i = 5, #ARGV, 3 do
  redis.call('XADD', KEYS[1], ARGV[i], 'o', ARGV[4], 't', ARGV[i + 1], 'd', ARGV[i + 2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 'ok'
