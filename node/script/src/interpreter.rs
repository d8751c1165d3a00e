//! One interpreter: compiles scripts, runs them, and ends those that it is told to end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::{
    Error, Function, HookTriggers, Lua, LuaOptions, MultiValue, RegistryKey, Result, StdLib, Table, Value, Variadic,
    VmState,
};
use ringmaster_engine::{Protocol, ReplyBuf, ScriptId, text_of, write_double};
use sha1::{Digest, Sha1};

use crate::current::Current;
use crate::direct::{self, Ran};
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

/// A script that its interpreter has compiled.
#[derive(Debug)]
pub struct Script {
    id: ScriptId,
    function: Function,
    declared: Declared,
}

impl Script {
    #[must_use]
    pub fn declared(&self) -> Declared {
        self.declared
    }
}

pub struct Interpreter {
    lua: Lua,
    /// Where KEYS and ARGV belong.
    globals: RegistryKey,
    /// Makes a table of an error that ends a script.
    describe: RegistryKey,
    env: Table,
    compiled: RefCell<BTreeMap<ScriptId, Rc<Script>>>,
    state: Rc<State>,
    memory_bytes_max: usize,
}

/// What functions of the libraries know of the present run.
pub(crate) struct State {
    /// The RESP version that the script asked for.
    protocol: Cell<Protocol>,
    random: Rc<RefCell<Random>>,
    tick: Box<dyn Fn() -> Tick>,
    logged: RefCell<Vec<(u8, String)>>,
    abandoned: Cell<bool>,
    host: Current,
    /// The reply to the command that was called last.
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
        let (describe, globals, env): (Function, Table, Table) = prelude.call(native)?;
        let interpreter = Self {
            globals: lua.create_registry_value(globals)?,
            describe: lua.create_registry_value(describe)?,
            lua,
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

    /// A script that was compiled before.
    #[must_use]
    pub fn compiled(&self, id: &ScriptId) -> Option<Rc<Script>> {
        self.compiled.borrow().get(id).cloned()
    }

    /// Compiles a body, unless that was done before.
    ///
    /// # Errors
    /// Why it does not compile, as the reply says it.
    pub fn compile(&self, id: &ScriptId, body: &[u8]) -> std::result::Result<Rc<Script>, String> {
        if let Some(known) = self.compiled(id) {
            return Ok(known);
        }
        self.make_room();
        let (declared, source) = without_shebang(body)?;
        // Byte code can do what no source can.
        let chunk = self.lua.load(source).set_name("@user_script").set_mode(ChunkMode::Text);
        let function = chunk
            .set_environment(self.env.clone())
            .into_function()
            .map_err(|error| format!("ERR Error compiling script (new function): {}", describe(&error)))?;
        let script = Rc::new(Script { id: *id, function, declared });
        let mut compiled = self.compiled.borrow_mut();
        if compiled.len() >= COMPILED_MAX {
            compiled.clear();
        }
        compiled.insert(*id, Rc::clone(&script));
        Ok(script)
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

    /// Runs a script that this interpreter has compiled. Writes one reply.
    pub fn run(&self, script: &Script, (keys, args): (&[&[u8]], &[&[u8]]), host: &mut dyn Host, reply: &mut ReplyBuf) {
        self.make_room();
        self.state.protocol.set(Protocol::Resp2);
        self.state.random.replace(Random::default());
        self.state.abandoned.set(false);
        let start = reply.len();
        if let Err(error) = self.run_function(script, (keys, args), host, reply) {
            reply.truncate(start);
            reply.error(&format!("ERR {}", describe(&error)));
        }
        for (level, text) in self.state.logged.take() {
            host.log(level, &text);
        }
    }

    fn run_function(
        &self,
        Script { id, function, declared: _ }: &Script,
        lists: (&[&[u8]], &[&[u8]]),
        host: &mut dyn Host,
        reply: &mut ReplyBuf,
    ) -> Result<()> {
        let state = &self.state;
        let known = (&self.globals, &self.describe);
        let protocol = || state.protocol.get();
        let result = state.host.during(host, || direct::run(&self.lua, function, known, lists, protocol, reply));
        if state.abandoned.get() {
            // What ended it must not end the next one.
            self.watch()?;
            return Ok(());
        }
        // It may have been ended: the next one is watched as this one was.
        let error = match result {
            Ok(Ran::Replied) => return Ok(()),
            Ok(Ran::Returned(value)) => return reply::write(&value, state.protocol.get(), reply),
            Ok(Ran::Failed(error)) => {
                self.watch()?;
                error
            }
            Err(error) => {
                self.watch()?;
                return Err(error);
            }
        };
        let error = match error {
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

/// A command was answered with an error, which the script did not ask to see. It repeats what clients sent, so it need not be UTF-8.
#[derive(Debug)]
struct CommandFailed(Vec<u8>);

impl std::fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl std::error::Error for CommandFailed {}

/// What becomes of a reply to `redis.call` that is not simple.
fn finish_call(lua: &Lua, state: &State) -> Result<Value> {
    if state.is_abandoned() {
        lua.set_hook(HookTriggers::new().every_line(), |_, _| Err(Error::runtime("abandoned")))?;
        return Err(Error::runtime("abandoned"));
    }
    let replied = state.replied.borrow();
    match replied.as_bytes() {
        [b'-', text @ ..] => Err(Error::external(CommandFailed(error_text(text)))),
        reply => reply::read(lua, reply),
    }
}

/// The same of `redis.pcall`.
fn finish_pcall(lua: &Lua, state: &State) -> Result<Value> {
    let text = match state.replied.borrow().as_bytes() {
        [b'-', text @ ..] if !state.is_abandoned() => error_text(text),
        _ => return finish_call(lua, state),
    };
    let error = lua.create_table_with_capacity(0, 1)?;
    error.raw_set("err", lua.create_string(text)?)?;
    Ok(Value::Table(error))
}

fn error_text(text: &[u8]) -> Vec<u8> {
    text.strip_suffix(b"\r\n").unwrap_or(text).to_vec()
}

impl State {
    /// Executes a command for the script; the reply, which may be an error, is the last one from then on.
    pub(crate) fn execute(&self, args: &[&[u8]]) {
        if args.is_empty() {
            return self.refuse("ERR Please specify at least one argument for this call");
        }
        if args.len() > CALL_ARGS_MAX {
            return self.refuse("ERR Too many arguments for this call");
        }
        let replied = &mut *self.replied.borrow_mut();
        replied.clear();
        replied.set_protocol(self.protocol.get());
        match self.host.ask(|host| host.call(args, replied)) {
            None => replied.error("ERR redis.call() can only be called inside a script invocation"),
            Some(HostReply::Replied) => {}
            Some(HostReply::Abandon) => self.abandoned.set(true),
        }
    }

    /// An error takes the place of a reply.
    pub(crate) fn refuse(&self, error: &str) {
        let replied = &mut *self.replied.borrow_mut();
        replied.clear();
        replied.error(error);
    }

    /// The bytes of the last reply, which stay until the next command is executed.
    pub(crate) fn last_reply(&self) -> *const [u8] {
        self.replied.borrow().as_bytes()
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }
}

/// An argument of a command.
pub(crate) enum Argument<'a> {
    /// What can be none.
    None,
    Text(&'a [u8]),
    Number(String),
}

impl Argument<'_> {
    pub(crate) fn number(number: f64) -> Self {
        Self::Number(number_text(number))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Text(text) => text,
            Self::Number(text) => text.as_bytes(),
        }
    }
}

/// An argument of a command that is asked about only.
fn text_of_value(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Integer(number) => Some(number_text(*number as f64).into_bytes()),
        Value::Number(number) => Some(number_text(*number).into_bytes()),
        _ => None,
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
    let finish = lua.create_function(move |lua, ()| finish_call(lua, &calling))?;
    native.set("call", direct::caller(lua, state, &finish)?)?;
    let calling = Rc::clone(state);
    let finish = lua.create_function(move |lua, ()| finish_pcall(lua, &calling))?;
    native.set("pcall", direct::caller(lua, state, &finish)?)?;
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
            let args: Vec<Vec<u8>> = given.iter().filter_map(text_of_value).collect();
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
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
