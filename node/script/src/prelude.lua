-- What scripts see, and how one is run. In: `native`, the functions that are not written in Lua. Out: `run(script)`, which gives
-- true and the script's value, or false and an error as a table; `globals`, where KEYS and ARGV belong; and the environment of scripts.
local native = ...
local error, type, tostring, rawset, xpcall, select = error, type, tostring, rawset, xpcall, select
local setmetatable, getmetatable, loadstring, load = setmetatable, getmetatable, loadstring, load

local readonly = {}
local function refuse_change()
  error('Attempt to modify a readonly table', 2)
end
local function protect(table)
  local shown = setmetatable({}, { __index = table, __newindex = refuse_change, __metatable = false })
  readonly[shown] = true
  return shown
end

local function raise(message)
  error({ err = message }, 0)
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
  return false, plain((...))
end

local redis = {
  call = native.call, pcall = native.pcall,
  error_reply = function(...)
    local text = ...
    if select('#', ...) ~= 1 or type(text) ~= 'string' then
      return { err = 'ERR wrong number or type of arguments' }
    end
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
    if select('#', ...) ~= 1 then raise('ERR wrong number of arguments') end
    return native.sha1hex(tostring((...)))
  end,
  log = function(level, ...)
    if select('#', ...) < 1 then raise('ERR redis.log() requires two arguments or more.') end
    if type(level) ~= 'number' then raise('ERR First argument must be a number (log level).') end
    if level < 0 or level > 3 then raise('ERR Invalid log level.') end
    local parts = {}
    for i = 1, select('#', ...) do parts[i] = tostring((select(i, ...))) end
    native.log(level, table.concat(parts, ' '))
  end,
  setresp = function(...)
    local version = ...
    if select('#', ...) ~= 1 then raise('ERR redis.setresp() requires one argument.') end
    if version ~= 2 and version ~= 3 then raise('ERR RESP version must be 2 or 3.') end
    native.setresp(version)
  end,
  set_repl = function() end,
  replicate_commands = function() return true end,
  breakpoint = function() return false end,
  debug = function() end,
  acl_check_cmd = function() return true end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
  REDIS_VERSION = native.version, REDIS_VERSION_NUM = native.version_number,
}

math.random, math.randomseed = native.random, native.randomseed
getmetatable('').__metatable = false

local env
local globals = {
  assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next, pairs = pairs,
  pcall = function(...) return plain_results(pcall(...)) end, rawequal = rawequal, rawget = rawget, select = select, setmetatable = setmetatable,
  tonumber = tonumber, tostring = tostring, type = type, unpack = unpack, _VERSION = _VERSION,
  xpcall = function(body, handler)
    return xpcall(body, function(err) return handler(plain(err)) end)
  end,
  rawset = function(table, key, value)
    if readonly[table] then refuse_change() end
    return rawset(table, key, value)
  end,
  collectgarbage = function(what)
    return what == 'count' and collectgarbage('count') or 0
  end,
  loadstring = function(text, name)
    -- Byte code can do what no source can.
    if type(text) ~= 'string' or text:byte(1) == 27 then return nil, 'attempt to load chunk that is no text' end
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
  local line = native.line()
  if line and not readonly[err] and not err.line then
    return { err = err.err, source = '@user_script', line = line }
  end
  return err
end

local function run(script)
  local ok, value = xpcall(script, describe)
  return ok, value
end

return run, globals, env
