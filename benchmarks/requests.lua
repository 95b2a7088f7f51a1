-- Sends requests that are made from one template, and prints a summary as JSON.
--
--   wrk -s requests.lua URL -- METHOD PATH BODY SEED FIRST_PRODUCT LAST_PRODUCT CATEGORIES WORDS [HEADER VALUE]...
--
-- In the path, the body and the values of headers, {product}, {category} and {word} are drawn at random for each place,
-- and {key} is unique. A value that is the same for all requests is written into the template before.

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("thread_number", threads)
end

function init(args)
  method, path, body, seed = args[1], args[2], args[3], args[4]
  local first, last, categories = tonumber(args[5]), tonumber(args[6]), tonumber(args[7])
  local words, count = {}, 0
  for word in args[8]:gmatch("%a+") do words[#words + 1] = word end
  math.randomseed(tonumber(seed) + thread_number)
  draw = {
    product = function() return math.random(first, last) end,
    category = function() return math.random(1, categories) end,
    word = function() return words[math.random(1, #words)] end,
    key = function() count = count + 1; return seed .. "-" .. thread_number .. "-" .. count end,
  }
  headers = {}
  for place = 9, #args, 2 do headers[args[place]] = args[place + 1] end
end

local function filled(template)
  return (template:gsub("{(%a+)}", function(name) return draw[name] and draw[name]() end))
end

function request()
  local sent = {}
  for name, value in pairs(headers) do sent[name] = filled(value) end
  return wrk.format(method, filled(path), sent, body ~= "" and filled(body) or nil)
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "failed": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
