-- Count one request in every window, or in none of them.
-- KEYS the windows (one slot)   ARGV amount, period in ms of each
-- Sliding-window counter: the last period's count fades out while this one's grows; error and memory are small, and
-- the clock is the server's. Answers 1 or 0, then for each window what remains and in how many ms there is room.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local answer, counts = {1}, {}
for i, key in ipairs(KEYS) do
  local amount, period = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local bucket, elapsed = math.floor(now / period), now % period
  local stored = redis.call('HMGET', key, 'b', 'c', 'p')
  local b, current, previous = tonumber(stored[1] or '-1'), tonumber(stored[2] or '0'), tonumber(stored[3] or '0')
  if b ~= bucket then
    previous = (b == bucket - 1) and current or 0
    current = 0
  end
  local used = previous * (period - elapsed) / period + current
  local wait = 0
  if used + 1 > amount then
    answer[1] = 0
    if current + 1 <= amount then
      wait = period - (amount - 1 - current) * period / previous - elapsed
    else
      wait = 2 * period - elapsed - (amount - 1) * period / current
    end
  end
  counts[i] = {bucket, current, previous}
  answer[2 * i] = math.max(0, math.floor(amount - used))
  answer[2 * i + 1] = math.ceil(wait)
end
if answer[1] == 1 then
  for i, key in ipairs(KEYS) do
    local c = counts[i]
    redis.call('HSET', key, 'b', c[1], 'c', c[2] + 1, 'p', c[3])
    redis.call('PEXPIRE', key, 2 * tonumber(ARGV[2 * i]))
    answer[2 * i] = math.max(0, answer[2 * i] - 1)
  end
end
return answer
