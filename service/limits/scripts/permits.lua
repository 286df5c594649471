-- Take a permit under every key, or under none.
-- KEYS sorted sets of permits by the time they lapse (one slot)   ARGV permit, lease in ms, then each key's limit
-- Answers 1, or 0 when one of the keys is full.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if redis.call('ZCARD', key) >= tonumber(ARGV[2 + i]) and not redis.call('ZSCORE', key, ARGV[1]) then return 0 end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + tonumber(ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', key, ARGV[2])
end
return 1
