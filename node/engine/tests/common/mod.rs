//! A client without a connection: command lines in, replies as text out.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]
#![allow(dead_code, reason = "each test file uses a part of this")]

pub mod writes;

use ringmaster_engine::{
    Access, Ctx, Engine, EngineConfig, Executed, Parsed, Protocol, ReplyBuf, RequestParser, UnixMs, lookup,
};
use ringmaster_ring::Slot;

pub const NOW: UnixMs = UnixMs(1_700_000_000_000);

pub fn engine() -> Engine {
    engine_seeded(1)
}

pub fn engine_seeded(seed: u64) -> Engine {
    Engine::new(EngineConfig { hash_seed: [seed, 2], ..EngineConfig::default() })
}

/// Splits a line as an inline request, quotes and escapes included.
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let wire = format!("{line}\r\n").into_bytes();
    let mut parser = RequestParser::new();
    let parsed = parser.advance(&wire, &Default::default()).unwrap();
    assert!(matches!(parsed, Parsed::Complete { .. }));
    parser.args(&wire).map(<[u8]>::to_vec).collect()
}

pub fn execute(engine: &Engine, args: &[Vec<u8>], now: UnixMs, protocol: Protocol) -> (Executed, String) {
    let (executed, reply) = execute_raw(engine, args, now, protocol);
    (executed, show(&reply))
}

/// The same with the reply's bytes.
pub fn execute_raw(engine: &Engine, args: &[Vec<u8>], now: UnixMs, protocol: Protocol) -> (Executed, Vec<u8>) {
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let spec = lookup(args[0]).unwrap_or_else(|| panic!("no command {}", args[0].escape_ascii()));
    let mut reply = ReplyBuf::new(protocol);
    let executed = engine.execute(spec, &args, &Ctx { now, db: 0, permit: &|_| true }, &mut reply);
    (executed, reply.take())
}

pub fn run_at(engine: &Engine, line: &str, now: UnixMs) -> String {
    execute(engine, &words(line), now, Protocol::Resp2).1
}

pub fn run(engine: &Engine, line: &str) -> String {
    run_at(engine, line, NOW)
}

pub fn run3(engine: &Engine, line: &str) -> String {
    execute(engine, &words(line), NOW, Protocol::Resp3).1
}

/// One reply as text: `OK`, `(error) …`, `(nil)`, `7`, `"bulk"`, `,1.5`, `[a b]`, `{k: v}`, `<a b>`.
pub fn show(mut bytes: &[u8]) -> String {
    let text = show_one(&mut bytes);
    assert!(bytes.is_empty(), "one reply, then {:?}", bytes.escape_ascii().to_string());
    text
}

fn show_one(bytes: &mut &[u8]) -> String {
    let end = bytes.windows(2).position(|w| w == b"\r\n").unwrap();
    let (line, rest) = bytes.split_at(end);
    *bytes = &rest[2..];
    let text = String::from_utf8_lossy(&line[1..]).into_owned();
    let many = |count: usize, bytes: &mut &[u8]| (0..count).map(|_| show_one(bytes)).collect::<Vec<_>>();
    match line[0] {
        b'+' => text,
        b'-' => format!("(error) {text}"),
        b':' => text,
        b',' => format!(",{text}"),
        b'_' => "(null)".into(),
        b'#' => format!("#{text}"),
        b'$' | b'*' if text == "-1" => "(nil)".into(),
        b'$' => {
            let len: usize = text.parse().unwrap();
            let (bulk, rest) = bytes.split_at(len);
            *bytes = &rest[2..];
            format!("\"{}\"", bulk.escape_ascii())
        }
        b'*' => format!("[{}]", many(text.parse().unwrap(), bytes).join(" ")),
        b'~' => format!("<{}>", many(text.parse().unwrap(), bytes).join(" ")),
        b'%' => {
            let pairs = many(text.parse::<usize>().unwrap() * 2, bytes);
            format!("{{{}}}", pairs.chunks(2).map(|p| format!("{}: {}", p[0], p[1])).collect::<Vec<_>>().join(", "))
        }
        other => panic!("reply of kind {}", char::from(other)),
    }
}

pub fn digests(engine: &Engine) -> Vec<u64> {
    Slot::all().map(|slot| engine.slot_digest(slot)).collect()
}

/// Sends a copy what it does not have yet.
pub fn replicate(primary: &Engine, copy: &Engine) {
    while let Some(batch) = primary.log().read_after(copy.log().end().seq, 1000).unwrap() {
        copy.apply(&batch).unwrap();
    }
    assert_eq!(copy.log().end(), primary.log().end());
}

pub fn always(_: Access) -> bool {
    true
}
