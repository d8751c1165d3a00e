//! What scripts hand to the libraries that are written in Rust: cjson, cmsgpack, struct. Whatever it is, it is decoded or refused with an error
//! of Lua, and what was decoded is encoded and decoded again to the same.

#![no_main]

use std::cell::Cell;
use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use ringmaster_engine::{Protocol, ReplyBuf, script_id};
use ringmaster_script::{Host, HostReply, Interpreter, Limits, Tick};

struct Nobody;

impl Host for Nobody {
    fn call(&mut self, _: &[&[u8]], reply: &mut ReplyBuf) -> HostReply {
        reply.ok();
        HostReply::Replied
    }

    fn permits(&mut self, _: &[&[u8]]) -> Option<bool> {
        None
    }

    fn log(&mut self, _: u8, _: &str) {}
}

/// Tables of which a part refers to itself cannot come from a decoder, so this ends. NaN is no key, and equals nothing: texts are compared.
const SAME: &str = "
local function show(v, depth)
  if depth > 40 then return '...' end
  if type(v) ~= 'table' then return type(v) .. tostring(v) end
  local parts = {}
  for k, x in pairs(v) do parts[#parts + 1] = show(k, depth + 1) .. '=' .. show(x, depth + 1) end
  table.sort(parts)
  return '{' .. table.concat(parts, ',') .. '}'
end
";

const SCRIPTS: [&str; 5] = [
    "local ok, v = pcall(cjson.decode, ARGV[1])
     if not ok then return 0 end
     local ok, text = pcall(cjson.encode, v)
     if not ok then return 1 end
     if show(cjson.decode(text), 0) ~= show(v, 0) and not text:find('e', 1, true) and not text:find('.', 1, true) then return 'other' end
     return 2",
    "local ok, v = pcall(cmsgpack.unpack, ARGV[1])
     if not ok then return 0 end
     local ok, text = pcall(cmsgpack.pack, v)
     if not ok then return 1 end
     if show(cmsgpack.unpack(text), 0) ~= show(v, 0) then return 'other' end
     return 2",
    "local ok, v, at = pcall(cmsgpack.unpack_one, ARGV[1], tonumber(ARGV[2]))
     pcall(cmsgpack.unpack_limit, ARGV[1], 3, tonumber(ARGV[2]))
     return 2",
    "pcall(struct.unpack, ARGV[2], ARGV[1])
     pcall(struct.size, ARGV[2])
     pcall(struct.pack, ARGV[2], ARGV[1], 1, 2, 3)
     return 2",
    "pcall(struct.unpack, ARGV[1], ARGV[2])
     pcall(cjson.decode, ARGV[2])
     pcall(bit.tohex, tonumber(ARGV[1]), tonumber(ARGV[2]))
     return 2",
];

thread_local! {
    static TICKS: Rc<Cell<u32>> = Rc::default();
    static INTERPRETER: Interpreter = {
        let ticks = TICKS.with(Rc::clone);
        let tick = move || {
            ticks.set(ticks.get() + 1);
            if ticks.get() > 500 { Tick::End("ERR it takes long") } else { Tick::GoOn }
        };
        Interpreter::new(Limits { memory_bytes_max: 256 << 20, redis_version: "7.2.4" }, tick).expect("memory for it")
    };
}

fuzz_target!(|input: &[u8]| {
    let Some((&[which, split], rest)) = input.split_first_chunk::<2>() else { return };
    let (second, first) = rest.split_at(usize::from(split).min(rest.len()));
    let body = format!("{SAME}{}", SCRIPTS[usize::from(which) % SCRIPTS.len()]);
    TICKS.with(|ticks| ticks.set(0));
    INTERPRETER.with(|interpreter| {
        let id = script_id(body.as_bytes());
        interpreter.compile(&id, body.as_bytes()).expect("it compiles");
        let mut reply = ReplyBuf::new(Protocol::Resp2);
        interpreter.run(&id, body.as_bytes(), (&[], &[first, second]), &mut Nobody, &mut reply);
        let text = String::from_utf8_lossy(reply.as_bytes()).into_owned();
        let ended = text.starts_with(':') || text.contains("takes long") || text.contains("not enough memory");
        assert!(ended, "{text} for {first:?} and {second:?}");
    });
});
