//! All that a server holds, as replies that can be compared: what is left when every reply was the same.

use crate::reply::Reply;
use crate::target::{Command, Target, command};

/// The questions about one key, by its type.
fn questions(key: &[u8], kind: &str) -> Vec<Command> {
    let ask = |words: &str| -> Command {
        words.split(' ').map(|word| if word == "KEY" { key.to_vec() } else { word.as_bytes().to_vec() }).collect()
    };
    let of_type: &[&str] = match kind {
        "string" => &["GET KEY"],
        "hash" => &["HGETALL KEY", "HLEN KEY"],
        "list" => &["LRANGE KEY 0 -1"],
        "set" => &["SMEMBERS KEY", "SCARD KEY"],
        "zset" => &["ZRANGE KEY 0 -1 WITHSCORES"],
        "stream" => &["XRANGE KEY - +", "XINFO STREAM KEY FULL COUNT 0"],
        _ => &[],
    };
    of_type.iter().chain(&["PEXPIRETIME KEY"]).map(|words| ask(words)).collect()
}

/// Every key with its type, in the order of their names.
pub fn keys(target: &mut dyn Target) -> anyhow::Result<Vec<(Vec<u8>, String)>> {
    let replies = target.ask(&[command(&[b"KEYS", b"*"])])?;
    let mut keys: Vec<Vec<u8>> =
        replies.iter().flat_map(Reply::elements).filter_map(|key| Some(key.bulk()?.to_vec())).collect();
    keys.sort();
    let types: Vec<Command> = keys.iter().map(|key| command(&[b"TYPE", key])).collect();
    let types = target.ask(&types)?;
    Ok(keys
        .into_iter()
        .zip(types)
        .map(|(key, kind)| (key, kind.to_string().trim_start_matches('+').to_owned()))
        .collect())
}

/// The questions about some keys.
pub fn questions_about(keys: &[(Vec<u8>, String)]) -> Vec<Command> {
    keys.iter().flat_map(|(key, kind)| questions(key, kind)).collect()
}
