-- What scripts see, and how one is run. In: `native`, the functions that are not written in Lua. Out: `describe`,
-- which makes a table of an error that ends a script; `globals`, where KEYS and ARGV belong; and the environment of scripts.
local native = ...
local error, type, tostring, rawset, xpcall, select = error, type, tostring, rawset, xpcall, select
local pairs, setmetatable, getmetatable, rawget, loadstring, load = pairs, setmetatable, getmetatable, rawget, loadstring, load
local tonumber = tonumber

local readonly = {}
local function refuse_change()
  error('Attempt to modify a readonly table', 2)
end
local function protect(table)
  local shown = setmetatable({}, { __index = table, __newindex = refuse_change, __metatable = false })
  readonly[shown] = true
  return shown
end

-- Errors of functions that are not written in Lua are objects of their own.
local function plain(err)
  if type(err) ~= 'userdata' then return err end
  local text, of_command = native.describe(err)
  if of_command then return { err = text } end
  return text
end
local function plain_results(ok, ...)
  if ok then return true, ... end
  local err = plain((...))
  -- As the field has it: who catches an error of a command gets its text.
  if type(err) == 'table' then
    local text = err.err
    if type(text) == 'string' or type(text) == 'number' then return false, text end
  end
  return false, err
end

-- A number as C makes an integer of it.
local function whole(number)
  return number < 0 and math.ceil(number) or math.floor(number)
end

-- A function that fails gives nil and its error.
local redis = {
  error_reply = function(...)
    local text = ...
    if select('#', ...) ~= 1 or type(text) ~= 'string' then
      return { err = 'ERR wrong number or type of arguments' }
    end
    text = text:match('^%Z*')
    if text:sub(1, 1) == '-' then text = text:sub(2) end
    if not text:find(' ', 1, true) then text = 'ERR ' .. text end
    return { err = text }
  end,
  status_reply = function(...)
    local text = ...
    if select('#', ...) ~= 1 or type(text) ~= 'string' then
      return { err = 'ERR wrong number or type of arguments' }
    end
    return { ok = text }
  end,
  sha1hex = function(...)
    if select('#', ...) ~= 1 then return nil, 'ERR wrong number of arguments' end
    local text = ...
    if type(text) ~= 'string' and type(text) ~= 'number' then text = '' end
    return native.sha1hex(tostring(text))
  end,
  log = function(level, ...)
    if select('#', ...) < 1 then return nil, 'ERR server.log() requires two arguments or more.' end
    level = tonumber(level)
    if not level then return nil, 'ERR First argument must be a number (log level).' end
    level = whole(level)
    if not (level >= 0 and level <= 3) then return nil, 'ERR Invalid log level.' end
    local parts = {}
    for i = 1, select('#', ...) do parts[i] = tostring((select(i, ...))) end
    native.log(level, table.concat(parts, ' '))
  end,
  setresp = function(...)
    local version = ...
    if select('#', ...) ~= 1 then return nil, 'ERR server.setresp() requires one argument.' end
    version = whole(tonumber(version) or 0)
    if version ~= 2 and version ~= 3 then return nil, 'ERR RESP version must be 2 or 3.' end
    native.setresp(version)
  end,
  -- What a script does is a record by effect, so there is nothing to choose.
  set_repl = function(...)
    local flags = ...
    if select('#', ...) ~= 1 then return nil, 'ERR server.set_repl() requires one argument.' end
    flags = whole(tonumber(flags) or 0)
    if not (flags >= 0 and flags <= 3) then
      return nil, 'ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.'
    end
  end,
  replicate_commands = function() return true end,
  breakpoint = function() return false end,
  debug = function() end,
  acl_check_cmd = function(...)
    if select('#', ...) == 0 then return nil, 'ERR Please specify at least one argument for this call' end
    for i = 1, select('#', ...) do
      local kind = type((select(i, ...)))
      if kind ~= 'string' and kind ~= 'number' then return nil, 'ERR Command arguments must be strings or integers' end
    end
    local permitted = native.permits(...)
    if permitted == nil then return nil, 'ERR Invalid command passed to server.acl_check_cmd()' end
    return permitted
  end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
  REDIS_VERSION = native.version, REDIS_VERSION_NUM = native.version_number,
  SERVER_NAME = 'valkey', VALKEY_VERSION = native.version, VALKEY_VERSION_NUM = native.version_number,
}

-- As functions that are not written in Lua: the place of an error in them is where they were called, also by `return redis.log()`.
for name, value in pairs(redis) do
  if type(value) == 'function' then redis[name] = native.guarded(value) end
end
redis.call, redis.pcall = native.call, native.pcall

math.random, math.randomseed = native.random, native.randomseed
getmetatable('').__metatable = false

local env
local globals = {
  assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next, pairs = pairs,
  pcall = function(...) return plain_results(pcall(...)) end, rawequal = rawequal, rawget = rawget, select = select,
  tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, _VERSION = _VERSION,
  xpcall = function(body, handler)
    return xpcall(body, function(err) return handler(plain(err)) end)
  end,
  setmetatable = function(table, ...)
    if readonly[table] then error('Attempt to modify a readonly table', 2) end
    return setmetatable(table, ...)
  end,
  rawset = function(table, key, value)
    if readonly[table] then error('Attempt to modify a readonly table', 2) end
    return rawset(table, key, value)
  end,
  collectgarbage = function(what)
    return what == 'count' and collectgarbage('count') or 0
  end,
  loadstring = function(text, name)
    if type(text) == 'number' then text = tostring(text) end
    if type(text) ~= 'string' then
      error("bad argument #1 to 'loadstring' (string expected, got " .. type(text) .. ')', 2)
    end
    -- Byte code can do what no source can.
    if text:byte(1) == 27 then return nil, 'attempt to load chunk that is no text' end
    local chunk, why = loadstring(text, name)
    if not chunk then return nil, why end
    return native.setfenv(chunk, env)
  end,
  string = protect(string), table = protect(table), math = protect(math), os = protect({ clock = os.clock }),
  cjson = protect(native.cjson), cmsgpack = protect(native.cmsgpack), bit = protect(native.bit),
  struct = protect(native.struct), redis = protect(redis), server = protect(redis),
}
string.dump = nil
setmetatable(globals, {
  __index = function(_, name)
    error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
  end,
})
env = setmetatable({}, { __index = globals, __newindex = refuse_change, __metatable = false })
readonly[env] = true
globals._G = env

local function describe(err)
  err = plain(err)
  if type(err) ~= 'table' then err = { err = 'ERR ' .. tostring(err) } end
  local text = err.err
  if type(text) ~= 'string' and type(text) ~= 'number' then text = 'ERR unknown error' end
  return { err = text, source = '@user_script', line = native.line() }
end

return describe, globals, env
