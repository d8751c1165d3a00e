//! One interpreter: compiles scripts, runs them, and ends those that it is told to end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::{
    Error, Function, HookTriggers, Lua, LuaOptions, MultiValue, Result, StdLib, Table, Value, Variadic, VmState,
};
use ringmaster_engine::{Protocol, ReplyBuf, ScriptId, text_of, write_double};
use sha1::{Digest, Sha1};

use crate::current::Current;
use crate::random::{self, Random};
use crate::{bit, cjson, cmsgpack, packing, reply};

/// How many instructions run between two looks at whether the script is to go on.
const TICK_INSTRUCTIONS: u32 = 20_000;
/// How many compiled scripts are kept.
const COMPILED_MAX: usize = 1_000;
/// How many arguments a command of a script may have.
const CALL_ARGS_MAX: usize = 1 << 20;

/// What an interpreter may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub memory_bytes_max: usize,
    pub redis_version: &'static str,
}

/// What a script says of itself in its first line, if that is a `#!`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// It has such a line: what that does not name does not hold.
    pub flags: bool,
    pub no_writes: bool,
}

/// Whether a script goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    GoOn,
    /// It ends with this error, whatever it catches.
    End(&'static str),
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReply {
    /// One reply, which may be an error, is in the buffer.
    Replied,
    /// The script ends at once; its reply does not matter.
    Abandon,
}

/// What a script runs against.
pub trait Host {
    /// Executes one command; its name comes first.
    fn call(&mut self, args: &[&[u8]], reply: &mut ReplyBuf) -> HostReply;
    /// `redis.acl_check_cmd`: whether the script's user may call a command, if there is such a command.
    fn permits(&mut self, args: &[&[u8]]) -> Option<bool>;
    /// `redis.log`: level 0 (debug) to 3 (warning).
    fn log(&mut self, level: u8, text: &str);
}

pub struct Interpreter {
    lua: Lua,
    run: Function,
    globals: Table,
    env: Table,
    compiled: RefCell<BTreeMap<ScriptId, (Function, Declared)>>,
    state: Rc<State>,
    memory_bytes_max: usize,
}

/// What functions of the libraries know of the present run.
struct State {
    /// The RESP version that the script asked for.
    protocol: Cell<Protocol>,
    random: Rc<RefCell<Random>>,
    tick: Box<dyn Fn() -> Tick>,
    logged: RefCell<Vec<(u8, String)>>,
    abandoned: Cell<bool>,
    host: Current,
    /// The reply to the command that is called.
    replied: RefCell<ReplyBuf>,
}

impl std::fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interpreter").field("memory_bytes", &self.lua.used_memory()).finish_non_exhaustive()
    }
}

impl Interpreter {
    /// Makes an interpreter. `tick` is asked now and then while a script runs.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(limits: Limits, tick: impl Fn() -> Tick + 'static) -> std::result::Result<Self, String> {
        Self::build(limits, Box::new(tick)).map_err(|error| error.to_string())
    }

    fn build(limits: Limits, tick: Box<dyn Fn() -> Tick>) -> Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS;
        let lua = Lua::new_with(libraries, LuaOptions::new().catch_rust_panics(false))?;
        lua.set_memory_limit(limits.memory_bytes_max)?;
        let state = Rc::new(State {
            protocol: Cell::new(Protocol::Resp2),
            random: Rc::default(),
            tick,
            logged: RefCell::default(),
            abandoned: Cell::new(false),
            host: Current::default(),
            replied: RefCell::default(),
        });
        let native = native(&lua, &state, limits.redis_version)?;
        let prelude = lua.load(include_str!("prelude.lua")).set_name("=prelude");
        let (run, globals, env): (Function, Table, Table) = prelude.call(native)?;
        let interpreter = Self {
            lua,
            run,
            globals,
            env,
            compiled: RefCell::default(),
            state,
            memory_bytes_max: limits.memory_bytes_max,
        };
        interpreter.watch()?;
        Ok(interpreter)
    }

    /// Looks now and then whether the script is to go on.
    fn watch(&self) -> Result<()> {
        let state = Rc::clone(&self.state);
        self.lua.set_hook(HookTriggers::new().every_nth_instruction(TICK_INSTRUCTIONS), move |lua, _| {
            if let Tick::End(why) = (state.tick)() {
                // From now on each line ends it: what it catches it cannot use.
                lua.set_hook(HookTriggers::new().every_line(), move |_, _| Err(Error::runtime(why)))?;
                return Err(Error::runtime(why));
            }
            Ok(VmState::Continue)
        })
    }

    /// Compiles a body, and says what it declares; `body` is needed only for one that was not compiled before.
    ///
    /// # Errors
    /// Why it does not compile, as the reply says it.
    pub fn compile(&self, id: &ScriptId, body: &[u8]) -> std::result::Result<Declared, String> {
        self.make_room();
        self.function(id, body).map(|(_, declared)| declared)
    }

    /// Garbage of former scripts is not to be what the next one lacks. Left to itself, the collector waits until there is twice as much as
    /// it found needed last, which may be more than there can be; and an allocation that fails does not wake it.
    fn make_room(&self) {
        if self.lua.used_memory() > self.memory_bytes_max / 2 {
            // It fails only if a finaliser does, and scripts have none.
            drop(self.lua.gc_collect());
        }
    }

    /// Forgets what it compiled: bodies may have gone.
    pub fn forget_compiled(&self) {
        self.compiled.borrow_mut().clear();
    }

    #[must_use]
    pub fn has_compiled(&self, id: &ScriptId) -> bool {
        self.compiled.borrow().contains_key(id)
    }

    /// Runs a script; `body` is needed only for one that was not compiled before. Writes one reply.
    pub fn run(
        &self,
        id: &ScriptId,
        body: &[u8],
        (keys, args): (&[&[u8]], &[&[u8]]),
        host: &mut dyn Host,
        reply: &mut ReplyBuf,
    ) {
        self.make_room();
        let function = match self.function(id, body) {
            Ok((function, _)) => function,
            Err(error) => return reply.error(&error),
        };
        self.state.protocol.set(Protocol::Resp2);
        self.state.random.replace(Random::default());
        self.state.abandoned.set(false);
        let start = reply.len();
        if let Err(error) = self.run_function(&function, id, (keys, args), host, reply) {
            reply.truncate(start);
            reply.error(&format!("ERR {}", describe(&error)));
        }
        for (level, text) in self.state.logged.take() {
            host.log(level, &text);
        }
    }

    fn run_function(
        &self,
        function: &Function,
        id: &ScriptId,
        (keys, args): (&[&[u8]], &[&[u8]]),
        host: &mut dyn Host,
        reply: &mut ReplyBuf,
    ) -> Result<()> {
        let list = |items: &[&[u8]]| {
            let table = self.lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                table.raw_push(self.lua.create_string(item)?)?;
            }
            Ok::<Table, Error>(table)
        };
        self.globals.raw_set("KEYS", list(keys)?)?;
        self.globals.raw_set("ARGV", list(args)?)?;
        let state = &self.state;
        let result: Result<(bool, Value)> = state.host.during(host, || self.run.call(function));
        if state.abandoned.get() {
            // What ended it must not end the next one.
            self.watch()?;
            return Ok(());
        }
        // It may have been ended: the next one is watched as this one was.
        let (ok, value) = match result {
            Ok(result) => result,
            Err(error) => {
                self.watch()?;
                return Err(error);
            }
        };
        if ok {
            return reply::write(&value, state.protocol.get(), reply);
        }
        self.watch()?;
        let error = match value {
            Value::Table(error) => error,
            // Where memory was short nobody could describe it.
            other => {
                reply.error(&format!("ERR {}", other.to_string()?));
                return Ok(());
            }
        };
        let text: mlua::LuaString = error.raw_get("err")?;
        let line: Option<i64> = error.raw_get("line")?;
        let mut text = text_of(&text.as_bytes());
        if let Some(line) = line {
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!(" script: {hex}, on @user_script:{line}."));
        }
        reply.error(&text);
        Ok(())
    }

    fn function(&self, id: &ScriptId, body: &[u8]) -> std::result::Result<(Function, Declared), String> {
        if let Some(known) = self.compiled.borrow().get(id) {
            return Ok(known.clone());
        }
        let (declared, source) = without_shebang(body)?;
        // Byte code can do what no source can.
        let chunk = self.lua.load(source).set_name("@user_script").set_mode(ChunkMode::Text);
        let function = chunk
            .set_environment(self.env.clone())
            .into_function()
            .map_err(|error| format!("ERR Error compiling script (new function): {}", describe(&error)))?;
        let mut compiled = self.compiled.borrow_mut();
        if compiled.len() >= COMPILED_MAX {
            compiled.clear();
        }
        compiled.insert(*id, (function.clone(), declared));
        Ok((function, declared))
    }
}

/// A script may begin with `#!lua` and flags. The line stays a line, so that errors name the right one.
fn without_shebang(body: &[u8]) -> std::result::Result<(Declared, &[u8]), String> {
    if !body.starts_with(b"#!") {
        return Ok((Declared::default(), body));
    }
    let mut declared = Declared { flags: true, no_writes: false };
    let end = body.iter().position(|byte| *byte == b'\n').ok_or("ERR Invalid script shebang")?;
    let (line, rest) = body.split_at(end);
    let line = String::from_utf8_lossy(line);
    let mut words = line.trim_start_matches("#!").split_whitespace();
    match words.next() {
        Some("lua") => {}
        other => return Err(format!("ERR Could not find scripting engine '{}'", other.unwrap_or_default())),
    }
    for word in words {
        let Some(flags) = word.strip_prefix("flags=") else {
            return Err(format!("ERR Unknown lua shebang option: {word}"));
        };
        const KNOWN: [&str; 5] = ["no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"];
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            if !KNOWN.contains(&flag) {
                return Err(format!("ERR Unexpected flag in script shebang: {flag}"));
            }
            declared.no_writes |= flag == "no-writes";
        }
    }
    Ok((declared, rest))
}

/// The reply to a command.
enum Reply {
    Value(Value),
    Error(Vec<u8>),
}

/// A command was answered with an error, which the script did not ask to see. It repeats what clients sent, so it need not be UTF-8.
#[derive(Debug)]
struct CommandFailed(Vec<u8>);

impl std::fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl std::error::Error for CommandFailed {}

/// `redis.call` and `redis.pcall`.
fn call_command(lua: &Lua, state: &State, given: &[Value]) -> Result<Reply> {
    let failed = |text: &str| Ok(Reply::Error(text.into()));
    if given.is_empty() {
        return failed("ERR Please specify at least one argument for this call");
    }
    if given.len() > CALL_ARGS_MAX {
        return failed("ERR Too many arguments for this call");
    }
    let strings: Option<Vec<Argument>> = given.iter().map(Argument::of).collect();
    let Some(strings) = strings else {
        return failed("ERR Command arguments must be strings or integers");
    };
    let mut few: [&[u8]; 16] = [&[]; 16];
    let many: Vec<&[u8]>;
    let args = if strings.len() <= few.len() {
        few.iter_mut().zip(&strings).for_each(|(place, string)| *place = string.bytes());
        few.get(..strings.len()).unwrap_or_default()
    } else {
        many = strings.iter().map(Argument::bytes).collect();
        &many
    };
    let buf = &mut *state.replied.borrow_mut();
    buf.clear();
    buf.set_protocol(state.protocol.get());
    match state.host.ask(|host| host.call(args, buf)) {
        None => return failed("ERR redis.call() can only be called inside a script invocation"),
        Some(HostReply::Replied) => {}
        Some(HostReply::Abandon) => {
            state.abandoned.set(true);
            lua.set_hook(HookTriggers::new().every_line(), |_, _| Err(Error::runtime("abandoned")))?;
            return Err(Error::runtime("abandoned"));
        }
    }
    if let [b'-', text @ .., b'\r', b'\n'] = buf.as_bytes() {
        return Ok(Reply::Error(text.to_vec()));
    }
    reply::read(lua, buf.as_bytes()).map(Reply::Value)
}

/// An argument of a command.
enum Argument {
    Text(mlua::BorrowedBytes),
    Number(String),
}

impl Argument {
    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::Text(text.as_bytes())),
            Value::Integer(number) => Some(Self::Number(number_text(*number as f64))),
            Value::Number(number) => Some(Self::Number(number_text(*number))),
            _ => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text,
            Self::Number(text) => text.as_bytes(),
        }
    }
}

/// A number as an argument of a command: shortest, as in replies.
fn number_text(number: f64) -> String {
    if number == 0.0 {
        return "0".into();
    }
    let mut text = Vec::new();
    if number.is_nan() && number.is_sign_negative() {
        text.push(b'-');
    }
    write_double(number, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The functions that the prelude takes from Rust.
fn native(lua: &Lua, state: &Rc<State>, version: &'static str) -> Result<Table> {
    let native = lua.create_table()?;
    native.set("version", version)?;
    let calling = Rc::clone(state);
    native.set(
        "call",
        lua.create_function(move |lua, given: Variadic<Value>| match call_command(lua, &calling, &given)? {
            Reply::Value(value) => Ok(value),
            Reply::Error(text) => Err(Error::external(CommandFailed(text))),
        })?,
    )?;
    let calling = Rc::clone(state);
    native.set(
        "pcall",
        lua.create_function(move |lua, given: Variadic<Value>| match call_command(lua, &calling, &given)? {
            Reply::Value(value) => Ok(value),
            Reply::Error(text) => {
                let error = lua.create_table_with_capacity(0, 1)?;
                error.raw_set("err", lua.create_string(text)?)?;
                Ok(Value::Table(error))
            }
        })?,
    )?;
    let number = version.split('.').filter_map(|part| part.parse::<u32>().ok()).fold(0, |sum, part| sum << 8 | part);
    native.set("version_number", number)?;
    native.set(
        "sha1hex",
        lua.create_function(|_, text: mlua::LuaString| {
            let digest: [u8; 20] = Sha1::digest(&*text.as_bytes()).into();
            Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        })?,
    )?;
    native.set(
        "guarded",
        lua.create_function(|lua, function: Function| {
            lua.create_function(move |_, args: Variadic<Value>| {
                // Without an error there may be no value, and that is another than nil.
                let mut values: MultiValue = function.call(args)?;
                match values.get(1) {
                    Some(Value::String(text)) => Err(Error::external(CommandFailed(text.as_bytes().to_vec()))),
                    _ => {
                        values.truncate(1);
                        Ok(values)
                    }
                }
            })
        })?,
    )?;
    let asking = Rc::clone(state);
    native.set(
        "permits",
        lua.create_function(move |_, given: Variadic<Value>| {
            let args: Vec<Argument> = given.iter().filter_map(Argument::of).collect();
            let args: Vec<&[u8]> = args.iter().map(Argument::bytes).collect();
            Ok(asking.host.ask(|host| host.permits(&args)).flatten())
        })?,
    )?;
    let logging = Rc::clone(state);
    native.set(
        "log",
        lua.create_function(move |_, (level, text): (u8, mlua::LuaString)| {
            logging.logged.borrow_mut().push((level, String::from_utf8_lossy(&text.as_bytes()).into_owned()));
            Ok(())
        })?,
    )?;
    let versioned = Rc::clone(state);
    native.set(
        "setresp",
        lua.create_function(move |_, version: u8| {
            versioned.protocol.set(if version == 3 { Protocol::Resp3 } else { Protocol::Resp2 });
            Ok(())
        })?,
    )?;
    native.set("random", random::random(lua, Rc::clone(&state.random))?)?;
    native.set("randomseed", random::seed(lua, Rc::clone(&state.random))?)?;
    native.set(
        "line",
        lua.create_function(|lua, ()| {
            // 0 is this function, 1 its caller that describes the error.
            for level in 2..16 {
                let line = lua.inspect_stack(level, |frame| {
                    let of_script = frame.source().source.as_deref() == Some("@user_script");
                    of_script.then(|| frame.current_line()).flatten()
                });
                match line {
                    None => return Ok(None),
                    Some(Some(line)) => return Ok(Some(line)),
                    Some(None) => {}
                }
            }
            Ok(None)
        })?,
    )?;
    native.set(
        "describe",
        lua.create_function(|lua, error: Value| {
            Ok(match error {
                Value::Error(error) => match error.downcast_ref::<CommandFailed>() {
                    Some(CommandFailed(text)) => (lua.create_string(text)?, true),
                    None => (lua.create_string(describe(&error))?, false),
                },
                other => (lua.create_string(other.to_string()?)?, false),
            })
        })?,
    )?;
    native.set(
        "setfenv",
        lua.create_function(|_, (function, env): (Function, Table)| {
            function.set_environment(env)?;
            Ok(function)
        })?,
    )?;
    native.set("bit", bit::library(lua)?)?;
    native.set("cjson", cjson::library(lua)?)?;
    native.set("cmsgpack", cmsgpack::library(lua)?)?;
    native.set("struct", packing::library(lua)?)?;
    Ok(native)
}

/// An error without the trace that the interpreter adds.
fn describe(error: &Error) -> String {
    match error {
        Error::CallbackError { cause, .. } => describe(cause),
        Error::RuntimeError(text) => text.split("\nstack traceback:").next().unwrap_or(text).to_owned(),
        Error::SyntaxError { message, .. } => message.clone(),
        Error::MemoryError(_) => "not enough memory".to_owned(),
        Error::ExternalError(error) => error.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
