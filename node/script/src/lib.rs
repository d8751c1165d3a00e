//! Lua scripts as Redis runs them: Lua 5.1, sandboxed, with `redis`, `cjson`, `cmsgpack`, `bit` and `struct`.
//!
//! Owns one interpreter a thread ([`Interpreter`]) with the scripts that it has compiled. In: a script with its keys and arguments, and a
//! [`Host`] that executes commands for it. Out: one reply. What a script may touch, how long it may run, and what becomes of its writes is
//! the host's business; this crate sees neither data nor a clock.
//!
//! Scripts leave nothing behind: they can make no global, and the libraries that they see cannot be changed. `prelude.lua` builds that.

mod arguments;
mod bit;
mod cjson;
mod cmsgpack;
mod current;
mod direct;
mod interpreter;
mod json_parser;
mod packing;
mod random;
mod reply;

pub use interpreter::{Declared, Host, HostReply, Interpreter, Limits, Script, Tick};
