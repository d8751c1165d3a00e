//! The way of nearly all that passes between scripts and commands, in Lua's own C interface: one run with its keys and arguments ([`run`]),
//! and `redis.call` ([`caller`]). What is rarer (errors, replies of RESP3, tables that scripts return) is left to `interpreter` and `reply`.
//!
//! `mlua` keeps a reference for each value that it hands over, and protects each string and each table that it makes: for a script of two
//! commands that was more than all the rest.
//!
//! This is one of the modules with `unsafe` code. Its invariants:
//! 1. Functions of Lua that may fail leave by a jump over the frames of this file. Where one is called there is a protected call below
//!    (that of `exec_raw`, or the script's own), and no local of these frames has anything to drop or is a borrow that is counted.
//! 2. Nothing of Rust unwinds into Lua: what may panic runs in functions of the ABI `C`, in which a panic ends the process.
//! 3. The first upvalue of [`call`] points to the [`State`] that its second one, a function of `mlua`, owns a count of.
//! 4. The bytes of a string of Lua are lent while it is on the stack, and those of the last reply until the next command is executed.

#![allow(
    unsafe_code,
    reason = "the C interface of Lua, since its safe wrapper costs more than most scripts; the invariants stand above"
)]

use std::ffi::{c_char, c_int, c_void};
use std::rc::Rc;

use mlua::{Function, Lua, RegistryKey, Result, Value, ffi};
use ringmaster_engine::{Protocol, ReplyBuf, parse_int};

use crate::interpreter::{Argument, State};
use crate::reply::truncated;

/// How deep replies may nest here.
const DEPTH_MAX: c_int = 8;
/// Commands of up to so many arguments are called without an allocation.
const ARGS_INLINE: usize = 16;

/// What came of a run.
pub(crate) enum Ran {
    /// The reply was written.
    Replied,
    /// This is what the script returned.
    Returned(Value),
    /// It failed with what `describe` made of its error.
    Failed(Value),
}

/// Runs a script. Writes the reply if that is a number, a text, a truth or nothing.
pub(crate) fn run(
    lua: &Lua,
    script: &Function,
    (globals, describe): (&RegistryKey, &RegistryKey),
    (keys, args): (&[&[u8]], &[&[u8]]),
    protocol: impl Fn() -> Protocol,
    reply: &mut ReplyBuf,
) -> Result<Ran> {
    let mut status = ffi::LUA_OK;
    let mut replied = false;
    let within = |lua: *mut ffi::lua_State| {
        // SAFETY: `exec_raw` protects this call, and no local here has anything to drop (1). The script is the one value on the stack.
        unsafe {
            ffi::lua_rawgeti(lua, ffi::LUA_REGISTRYINDEX, globals.id().into());
            for (name, items) in [(c"KEYS", keys), (c"ARGV", args)] {
                push_list(lua, items);
                ffi::lua_setfield(lua, 2, name.as_ptr());
            }
            ffi::lua_rawgeti(lua, ffi::LUA_REGISTRYINDEX, describe.id().into());
            ffi::lua_pushvalue(lua, 1);
            status = ffi::lua_pcall(lua, 0, 1, 3);
            replied = status == ffi::LUA_OK && write_reply(lua, protocol() == Protocol::Resp3, reply);
            // What is left is what `exec_raw` returns.
            ffi::lua_replace(lua, 1);
            ffi::lua_settop(lua, if replied { 0 } else { 1 });
        }
    };
    // SAFETY: the invariants of `exec_raw` are those of this module: the closure does not panic (2), and has nothing to drop (1).
    let value: Value = unsafe { lua.exec_raw(script, within)? };
    Ok(match status {
        _ if replied => Ran::Replied,
        ffi::LUA_OK => Ran::Returned(value),
        _ => Ran::Failed(value),
    })
}

/// Makes `redis.call` or `redis.pcall`: `finish` is asked for what becomes of a reply that is not simple.
pub(crate) fn caller(lua: &Lua, state: &Rc<State>, finish: &Function) -> Result<Function> {
    let state = Rc::as_ptr(state).cast_mut().cast::<c_void>();
    let within = |lua: *mut ffi::lua_State| {
        // SAFETY: as in `run`; `finish` is the one value on the stack, and becomes the second upvalue (3).
        unsafe {
            ffi::lua_pushlightuserdata(lua, state);
            ffi::lua_insert(lua, 1);
            ffi::lua_pushcclosure(lua, call, 2);
        }
    };
    // SAFETY: as in `run`.
    unsafe { lua.exec_raw(finish, within) }
}

/// `redis.call`: executes a command and returns its reply.
unsafe extern "C-unwind" fn call(lua: *mut ffi::lua_State) -> c_int {
    // SAFETY: `caller` made the closure with these upvalues (3), and whoever calls it does so in a protected call. Nothing here has
    // anything to drop (1).
    unsafe {
        let state = ffi::lua_touserdata(lua, ffi::lua_upvalueindex(1)).cast::<State>();
        let given = ffi::lua_gettop(lua);
        execute(lua, &*state, given);
        ffi::lua_settop(lua, 0);
        // Of what is in a `RefCell`: it is borrowed no longer, and nobody executes a command before this returns (4).
        let reply = &*(&*state).last_reply();
        let mut rest = reply;
        if (*state).is_abandoned() || !push(lua, &mut rest, 0) {
            ffi::lua_settop(lua, 0);
            ffi::lua_pushvalue(lua, ffi::lua_upvalueindex(2));
            ffi::lua_call(lua, 0, 1);
        }
    }
    1
}

/// Executes the command on the stack; the reply, which may be an error, is in the state. Calls nothing of Lua that may fail.
extern "C" fn execute(lua: *mut ffi::lua_State, state: &State, given: c_int) {
    let count = usize::try_from(given).unwrap_or(0);
    // SAFETY: there are so many values on the stack, which nothing is taken from meanwhile (4).
    let argument = |index: c_int| unsafe { argument(lua, index) };
    let mut few = [const { Argument::None }; ARGS_INLINE];
    let many: Vec<Argument<'_>>;
    let arguments = match few.get_mut(..count) {
        Some(places) => {
            places.iter_mut().zip(1..).for_each(|(place, index)| *place = argument(index));
            &*places
        }
        None => {
            many = (1..=given).map(argument).collect();
            &many
        }
    };
    if arguments.iter().any(|argument| matches!(argument, Argument::None)) {
        return state.refuse("ERR Command arguments must be strings or integers");
    }
    let mut few: [&[u8]; ARGS_INLINE] = [&[]; ARGS_INLINE];
    match few.get_mut(..count) {
        Some(places) => {
            places.iter_mut().zip(arguments).for_each(|(place, argument)| *place = argument.bytes());
            state.execute(places);
        }
        None => state.execute(&arguments.iter().map(Argument::bytes).collect::<Vec<_>>()),
    }
}

/// A value on the stack as an argument of a command, for as long as it is there.
unsafe fn argument<'a>(lua: *mut ffi::lua_State, index: c_int) -> Argument<'a> {
    // SAFETY: the caller vouches for the index. Asking for the bytes of what is a string already changes nothing.
    unsafe {
        match ffi::lua_type(lua, index) {
            ffi::LUA_TSTRING => Argument::Text(text(lua, index)),
            ffi::LUA_TNUMBER => Argument::number(ffi::lua_tonumber(lua, index)),
            _ => Argument::None,
        }
    }
}

/// The bytes of the string at an index of the stack, for as long as it is there.
unsafe fn text<'a>(lua: *mut ffi::lua_State, index: c_int) -> &'a [u8] {
    let mut len = 0;
    // SAFETY: the caller vouches that there is a string, whose bytes Lua neither moves nor changes (4).
    unsafe {
        let at = ffi::lua_tolstring(lua, index, &raw mut len);
        std::slice::from_raw_parts(at.cast::<u8>(), len)
    }
}

/// Puts a table of texts on the stack.
unsafe fn push_list(lua: *mut ffi::lua_State, items: &[&[u8]]) {
    // SAFETY: the caller is in a protected call, with room on the stack; nothing here has anything to drop (1).
    unsafe {
        ffi::lua_createtable(lua, c_int::try_from(items.len()).unwrap_or(0), 0);
        for (item, at) in items.iter().zip(1..) {
            push_text(lua, item);
            ffi::lua_rawseti(lua, -2, at);
        }
    }
}

unsafe fn push_text(lua: *mut ffi::lua_State, text: &[u8]) {
    // SAFETY: as in `push_list`; Lua copies the bytes.
    unsafe { ffi::lua_pushlstring_(lua, text.as_ptr().cast::<c_char>(), text.len()) };
}

/// Takes one encoded reply from the front of `rest`, and puts what it is on the stack. Says whether it could: otherwise anything may be there.
unsafe fn push(lua: *mut ffi::lua_State, rest: &mut &[u8], depth: c_int) -> bool {
    let Some((kind, line)) = take_line(rest) else { return false };
    let len = || parse_int(line).and_then(|len| usize::try_from(len).ok());
    // SAFETY: as in `push_list`; there is room for what a call that is no array pushes, and arrays ask for it.
    unsafe {
        match kind {
            b':' => {
                let Some(number) = parse_int(line) else { return false };
                ffi::lua_pushnumber(lua, number as f64);
            }
            b'$' | b'*' if line == b"-1" => ffi::lua_pushboolean(lua, 0),
            b'$' => {
                let Some((bulk, behind)) = len().and_then(|len| rest.split_at_checked(len)) else { return false };
                *rest = behind.get(2..).unwrap_or_default();
                push_text(lua, bulk);
            }
            b'+' => {
                ffi::lua_createtable(lua, 0, 1);
                push_text(lua, line);
                ffi::lua_setfield(lua, -2, c"ok".as_ptr());
            }
            b'*' if depth < DEPTH_MAX && ffi::lua_checkstack(lua, 4) != 0 => {
                let Some(len) = len().and_then(|len| c_int::try_from(len).ok()) else { return false };
                ffi::lua_createtable(lua, len.min(1 << 16), 0);
                for at in 1..=len {
                    if !push(lua, rest, depth + 1) {
                        return false;
                    }
                    ffi::lua_rawseti(lua, -2, at.into());
                }
            }
            _ => return false,
        }
    }
    true
}

/// The first byte and the rest of the line at the front.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&kind, body) = rest.split_first()?;
    let end = body.iter().position(|&byte| byte == b'\r')?;
    let (line, behind) = body.split_at_checked(end)?;
    *rest = behind.get(2..)?;
    Some((kind, line))
}

/// Writes the value on top of the stack as a reply, if it is a simple one. Calls nothing of Lua that may fail.
extern "C" fn write_reply(lua: *mut ffi::lua_State, is_resp3: bool, reply: &mut ReplyBuf) -> bool {
    // SAFETY: the caller put a value there.
    unsafe {
        match ffi::lua_type(lua, -1) {
            ffi::LUA_TNUMBER => reply.integer(truncated(ffi::lua_tonumber(lua, -1))),
            ffi::LUA_TSTRING => reply.bulk(text(lua, -1)),
            ffi::LUA_TBOOLEAN if !is_resp3 => match ffi::lua_toboolean(lua, -1) {
                0 => reply.null(),
                _ => reply.integer(1),
            },
            ffi::LUA_TNIL => reply.null(),
            _ => return false,
        }
    }
    true
}
