//! Replies to the letter: `tests/cases/*.txt` are conversations, one engine each.
//!
//! `> COMMAND` is executed as RESP2, `3> COMMAND` as RESP3; the line below is the reply as `common::show` writes it. `@ MS` moves the clock on.
//! Expected replies are those of Redis's and Valkey's documentation; where they are silent, of their source.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]

mod common;

use common::{NOW, engine, execute, words};
use ringmaster_engine::{Protocol, UnixMs};

fn converse(name: &str, script: &str) {
    let (engine, mut now, mut failures) = (engine(), NOW, Vec::new());
    let mut lines = script.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    while let Some((number, line)) = lines.next() {
        if let Some(ms) = line.strip_prefix("@ ") {
            now = UnixMs(now.0 + ms.parse::<u64>().unwrap());
            continue;
        }
        let (protocol, command) = match line.strip_prefix("3> ") {
            Some(command) => (Protocol::Resp3, command),
            None => {
                (Protocol::Resp2, line.strip_prefix("> ").unwrap_or_else(|| panic!("{name}:{}: {line}", number + 1)))
            }
        };
        let (_, expected) = lines.next().unwrap();
        let (_, reply) = execute(&engine, &words(command), now, protocol);
        if reply != expected {
            failures.push(format!("{name}:{}: {command}\n  expected {expected}\n  got      {reply}", number + 1));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

macro_rules! conversations {
    ($($name:ident: $file:literal,)*) => {
        $(#[test]
        fn $name() {
            converse($file, include_str!(concat!("cases/", $file)));
        })*
    };
}

conversations! {
    strings_reply_as_redis_does: "strings.txt",
    keys_reply_as_redis_does: "keys.txt",
    hashes_reply_as_redis_does: "hashes.txt",
    sorted_sets_reply_as_redis_does: "sorted_sets.txt",
    lists_reply_as_redis_does: "lists.txt",
    sets_reply_as_redis_does: "sets.txt",
    bits_reply_as_redis_does: "bits.txt",
    hyperloglogs_reply_as_redis_does: "hyperloglogs.txt",
    streams_reply_as_redis_does: "streams.txt",
    stream_groups_reply_as_redis_does: "stream_groups.txt",
    dumps_reply_as_redis_does: "dumps.txt",
}
