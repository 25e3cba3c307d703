-- wrk: each request as the next consumer; counts who was let in, who was limited, and anything else.
local keys, next_key, threads = {}, 0, {}
for key in io.lines("KEYS_FILE") do keys[#keys + 1] = key end

function setup(thread) table.insert(threads, thread) end

function init(_)
  admitted, limited, other = 0, 0, 0
  requests = {}
  for i, key in ipairs(keys) do requests[i] = wrk.format("GET", nil, { ["X-API-Key"] = key }) end
end

function request()
  next_key = next_key % #requests + 1
  return requests[next_key]
end

function response(status)
  if status == 200 then admitted = admitted + 1
  elseif status == 429 then limited = limited + 1
  else other = other + 1 end
end

function done(summary)
  local a, l, o = 0, 0, 0
  for _, thread in ipairs(threads) do
    a, l, o = a + thread:get("admitted"), l + thread:get("limited"), o + thread:get("other")
  end
  io.write(string.format("crowd %d %d %d %.3f\n", a, l, o, summary.duration / 1e6))
end
