//! Payloads of RESTORE: they are refused, or make a value that every command of its type can read, and that survives being dumped and restored.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ringmaster_engine::{Ctx, Engine, EngineConfig, Protocol, ReplyBuf, UnixMs, lookup};

/// CRC-64/Jones, as payloads have it at their end: without a right one nothing else is looked at.
static CRC_TABLE: LazyLock<[u64; 256]> = LazyLock::new(|| {
    let mut table = [0; 256];
    for (byte, entry) in (0..).zip(&mut table) {
        *entry = (0..8).fold(byte, |crc: u64, _| if crc & 1 == 1 { crc >> 1 ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 });
    }
    table
});

fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| CRC_TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

fn call(engine: &Engine, args: &[&[u8]]) -> Vec<u8> {
    let ctx = Ctx { now: UnixMs(1_700_000_000_000), db: 0, permit: &|_| true };
    let mut reply = ReplyBuf::new(Protocol::Resp3);
    let spec = lookup(args[0]).expect("a command");
    engine.execute(spec, args, &ctx, &mut reply);
    reply.take()
}

fn digest(engine: &Engine, key: &[u8]) -> Vec<u8> {
    let ctx = Ctx { now: UnixMs(1_700_000_000_000), db: 0, permit: &|_| true };
    let mut reply = ReplyBuf::new(Protocol::Resp2);
    engine.debug_digests_of(&[key], &ctx, &mut reply);
    reply.take()
}

/// The content of a bulk string.
fn bulk(reply: &[u8]) -> &[u8] {
    let end = reply.windows(2).position(|pair| pair == b"\r\n").expect("a line");
    &reply[end + 2..reply.len() - 2]
}

const READS: &[&[&[u8]]] = &[
    &[b"GET", b"k"],
    &[b"LRANGE", b"k", b"0", b"-1"],
    &[b"SMEMBERS", b"k"],
    &[b"HGETALL", b"k"],
    &[b"ZRANGE", b"k", b"0", b"-1", b"WITHSCORES"],
    &[b"XRANGE", b"k", b"-", b"+"],
    &[b"XINFO", b"STREAM", b"k", b"FULL", b"COUNT", b"0"],
    &[b"PFCOUNT", b"k"],
    &[b"OBJECT", b"ENCODING", b"k"],
    &[b"MEMORY", b"USAGE", b"k"],
    &[b"TYPE", b"k"],
];
const WRITES: &[&[&[u8]]] = &[
    &[b"APPEND", b"k", b"more"],
    &[b"RPUSH", b"k", b"more"],
    &[b"LPOP", b"k"],
    &[b"SADD", b"k", b"more"],
    &[b"SPOP", b"k"],
    &[b"HSET", b"k", b"more", b"x"],
    &[b"ZADD", b"k", b"1", b"more"],
    &[b"ZPOPMIN", b"k"],
    &[b"XADD", b"k", b"*", b"more", b"x"],
    &[b"PFADD", b"k", b"more"],
];

/// One for all inputs, each of which leaves it empty: making one takes longer than most inputs do.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    Engine::new(EngineConfig { hash_seed: [1, 2], maxmemory_bytes: 64 << 20, ..EngineConfig::default() })
});

fuzz_target!(|body: &[u8]| {
    let engine = &*ENGINE;
    let mut payload = body.to_vec();
    payload.extend_from_slice(&11_u16.to_le_bytes());
    payload.extend_from_slice(&crc64(&payload).to_le_bytes());
    if call(engine, &[b"RESTORE", b"k", b"0", &payload]) != b"+OK\r\n" {
        assert_eq!(call(engine, &[b"EXISTS", b"k"]), b":0\r\n", "what is refused leaves nothing");
        return;
    }
    if call(engine, &[b"EXISTS", b"k"]) == b":0\r\n" {
        return;
    }
    for read in READS {
        call(engine, read);
    }
    let again = call(engine, &[b"DUMP", b"k"]);
    let restored = call(engine, &[b"RESTORE", b"copy", b"0", bulk(&again)]);
    assert_eq!(restored, b"+OK\r\n", "a dump of ours is read by us");
    assert_eq!(digest(engine, b"k"), digest(engine, b"copy"), "and means the same");
    for write in WRITES {
        call(engine, write);
        for read in READS {
            call(engine, read);
        }
    }
    call(engine, &[b"DEL", b"k", b"copy"]);
    assert_eq!(engine.key_count(), 0);
    drop(engine.take_dropped());
});
