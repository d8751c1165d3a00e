//! Each type against a plain model of it, over sizes at which collections change their form.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test ends where its claim does")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{NOW, digests, engine, execute, replicate};
use proptest::prelude::*;
use ringmaster_engine::{Engine, Protocol, UnixMs};

fn call(engine: &Engine, args: &[&str]) -> String {
    let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    execute(engine, &args, NOW, Protocol::Resp2).1
}

fn array<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    format!("[{}]", items.into_iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(" "))
}

/// The strings of a reply that is an array of them, in order.
fn strings(reply: &str) -> Vec<String> {
    let inner = reply.strip_prefix('[').and_then(|r| r.strip_suffix(']')).unwrap_or_else(|| panic!("{reply}"));
    inner.split(' ').filter(|s| !s.is_empty()).map(|s| s.trim_matches('"').to_owned()).collect()
}

/// Follows a scan to its end.
fn scan(engine: &Engine, command: &[&str], count: u16) -> Vec<String> {
    let (mut found, mut cursor, count) = (Vec::new(), "0".to_owned(), count.to_string());
    loop {
        let reply = call(engine, &[command, &[&cursor, "COUNT", &count]].concat());
        let (next, elements) = reply[1..reply.len() - 1].split_once(' ').unwrap();
        found.extend(strings(elements));
        cursor = next.trim_matches('"').to_owned();
        if cursor == "0" {
            return found;
        }
    }
}

/// Elements of which there are more than a packed collection holds, some of them longer.
fn element() -> impl Strategy<Value = String> {
    prop_oneof![8 => (0u16..300).prop_map(|n| format!("e{n}")), 1 => (0u8..4).prop_map(|n| format!("{n}{}", "long".repeat(20)))]
}

#[derive(Clone, Debug)]
enum HashStep {
    Set(String, String),
    Del(String),
    Get(String),
    Incr(String, i8),
    Check(u16),
}

#[derive(Clone, Debug)]
enum ZStep {
    Add(String, i16),
    Rem(String),
    Rank(String),
    Range(i16, i16, bool),
    ByScore(i16, i16, bool),
    Pop(u8, bool),
    RemByRank(i16, i16),
    RemByScore(i16, i16),
    Check(u16),
}

#[derive(Clone, Debug)]
enum ListStep {
    Push(String, bool),
    Pop(u8, bool),
    Range(i16, i16),
    Index(i16),
    Set(i16, String),
    Rem(i8, String),
    Trim(i16, i16),
    Insert(String, String, bool),
}

#[derive(Clone, Debug)]
enum SetStep {
    Add(String),
    Rem(String),
    Pop(u8),
    Is(String),
    Check(u16),
}

fn bounds(start: i16, end: i16, len: usize) -> std::ops::Range<usize> {
    let len = len as i64;
    let from_end = |rank: i64| if rank < 0 { rank + len } else { rank };
    let (start, end) = (from_end(start.into()).max(0), from_end(end.into()).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn hashes_equal_a_map(steps in prop::collection::vec(prop_oneof![
        8 => (element(), element()).prop_map(|(f, v)| HashStep::Set(f, v)),
        4 => element().prop_map(HashStep::Del),
        2 => element().prop_map(HashStep::Get),
        2 => (element(), any::<i8>()).prop_map(|(f, by)| HashStep::Incr(f, by)),
        1 => (1u16..40).prop_map(HashStep::Check),
    ], 0..900)) {
        let (engine, copy) = (engine(), engine());
        let mut model = BTreeMap::<String, String>::new();
        for step in steps {
            match step {
                HashStep::Set(field, value) => {
                    let is_new = model.insert(field.clone(), value.clone()).is_none();
                    prop_assert_eq!(call(&engine, &["HSET", "h", &field, &value]), u8::from(is_new).to_string());
                }
                HashStep::Del(field) => {
                    let was = model.remove(&field).is_some();
                    prop_assert_eq!(call(&engine, &["HDEL", "h", &field]), u8::from(was).to_string());
                }
                HashStep::Get(field) => {
                    let expected = model.get(&field).map_or("(nil)".to_owned(), |v| format!("\"{v}\""));
                    prop_assert_eq!(call(&engine, &["HGET", "h", &field]), expected);
                }
                HashStep::Incr(field, by) => {
                    let reply = call(&engine, &["HINCRBY", "h", &field, &by.to_string()]);
                    match model.get(&field).map_or(Ok(0), |text| text.parse::<i64>()) {
                        Ok(old) => {
                            let sum = (old + i64::from(by)).to_string();
                            prop_assert_eq!(&reply, &sum);
                            model.insert(field, sum);
                        }
                        Err(_) => prop_assert_eq!(reply, "(error) ERR hash value is not an integer"),
                    }
                }
                HashStep::Check(count) => {
                    prop_assert_eq!(call(&engine, &["HLEN", "h"]), model.len().to_string());
                    prop_assert_eq!(call(&engine, &["EXISTS", "h"]), u8::from(!model.is_empty()).to_string());
                    let mut found: Vec<(String, String)> = strings(&call(&engine, &["HGETALL", "h"]))
                        .chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                    found.sort();
                    prop_assert_eq!(&found, &model.clone().into_iter().collect::<Vec<_>>());
                    let mut scanned = scan(&engine, &["HSCAN", "h"], count);
                    prop_assert_eq!(scanned.len(), 2 * model.len());
                    scanned = scanned.chunks(2).map(|pair| pair[0].clone()).collect();
                    scanned.sort();
                    prop_assert!(scanned.iter().eq(model.keys()));
                }
            }
        }
        replicate(&engine, &copy);
        prop_assert_eq!(digests(&copy), digests(&engine));
    }

    #[test]
    fn sorted_sets_equal_a_sorted_list(steps in prop::collection::vec(prop_oneof![
        12 => (element(), -40i16..40).prop_map(|(m, s)| ZStep::Add(m, s)),
        4 => element().prop_map(ZStep::Rem),
        3 => element().prop_map(ZStep::Rank),
        3 => (-80i16..80, -80i16..80, any::<bool>()).prop_map(|(a, b, rev)| ZStep::Range(a, b, rev)),
        3 => (-45i16..45, -45i16..45, any::<bool>()).prop_map(|(a, b, open)| ZStep::ByScore(a, b, open)),
        1 => (0u8..5, any::<bool>()).prop_map(|(n, max)| ZStep::Pop(n, max)),
        1 => (-9i16..300, 0i16..4).prop_map(|(a, n)| ZStep::RemByRank(a, a.saturating_add(n))),
        1 => (-45i16..45, 0i16..3).prop_map(|(a, n)| ZStep::RemByScore(a, a + n)),
        1 => (1u16..40).prop_map(ZStep::Check),
    ], 0..900)) {
        let (engine, copy) = (engine(), engine());
        let mut scores = BTreeMap::<String, i16>::new();
        for step in steps {
            let sorted: BTreeSet<(i16, String)> = scores.iter().map(|(m, s)| (*s, m.clone())).collect();
            let sorted: Vec<(i16, String)> = sorted.into_iter().collect();
            match step {
                ZStep::Add(member, score) => {
                    let is_new = scores.insert(member.clone(), score).is_none();
                    let reply = call(&engine, &["ZADD", "z", &score.to_string(), &member]);
                    prop_assert_eq!(reply, u8::from(is_new).to_string());
                }
                ZStep::Rem(member) => {
                    let was = scores.remove(&member).is_some();
                    prop_assert_eq!(call(&engine, &["ZREM", "z", &member]), u8::from(was).to_string());
                }
                ZStep::Rank(member) => {
                    let rank = sorted.iter().position(|(_, m)| *m == member);
                    let show = |rank: Option<usize>| rank.map_or("(nil)".into(), |rank| rank.to_string());
                    prop_assert_eq!(call(&engine, &["ZRANK", "z", &member]), show(rank));
                    let from_end = rank.map(|rank| sorted.len() - 1 - rank);
                    prop_assert_eq!(call(&engine, &["ZREVRANK", "z", &member]), show(from_end));
                    let score = scores.get(&member).map_or("(nil)".into(), |s| format!("\"{s}\""));
                    prop_assert_eq!(call(&engine, &["ZSCORE", "z", &member]), score);
                }
                ZStep::Range(start, end, reverse) => {
                    let mut members: Vec<&str> = sorted.iter().map(|(_, m)| m.as_str()).collect();
                    if reverse {
                        members.reverse();
                    }
                    let expected = array(members[bounds(start, end, members.len())].iter().copied());
                    let command = if reverse { "ZREVRANGE" } else { "ZRANGE" };
                    prop_assert_eq!(call(&engine, &[command, "z", &start.to_string(), &end.to_string()]), expected);
                }
                ZStep::ByScore(low, high, open) => {
                    let within = |s: i16| if open { low < s && s < high } else { low <= s && s <= high };
                    let members: Vec<&str> = sorted.iter().filter(|(s, _)| within(*s)).map(|(_, m)| m.as_str()).collect();
                    let mark = if open { "(" } else { "" };
                    let (low, high) = (format!("{mark}{low}"), format!("{mark}{high}"));
                    prop_assert_eq!(call(&engine, &["ZCOUNT", "z", &low, &high]), members.len().to_string());
                    prop_assert_eq!(call(&engine, &["ZRANGEBYSCORE", "z", &low, &high]), array(members.iter().copied()));
                    let backwards = call(&engine, &["ZREVRANGEBYSCORE", "z", &high, &low]);
                    prop_assert_eq!(backwards, array(members.iter().rev().copied()));
                }
                ZStep::Pop(count, highest) => {
                    let command = if highest { "ZPOPMAX" } else { "ZPOPMIN" };
                    let found = strings(&call(&engine, &[command, "z", &count.to_string()]));
                    let taken = usize::from(count).min(sorted.len());
                    let part: Vec<(i16, String)> =
                        if highest { sorted.iter().rev().take(taken).cloned().collect() } else { sorted[..taken].to_vec() };
                    let expected: Vec<String> = part.iter().flat_map(|(s, m)| [m.clone(), s.to_string()]).collect();
                    prop_assert_eq!(found, expected);
                    scores.retain(|member, _| part.iter().all(|(_, m)| m != member));
                }
                ZStep::RemByRank(start, end) => {
                    let doomed = &sorted[bounds(start, end, sorted.len())];
                    let reply = call(&engine, &["ZREMRANGEBYRANK", "z", &start.to_string(), &end.to_string()]);
                    prop_assert_eq!(reply, doomed.len().to_string());
                    scores.retain(|member, _| doomed.iter().all(|(_, m)| m != member));
                }
                ZStep::RemByScore(low, high) => {
                    let before = scores.len();
                    scores.retain(|_, s| !(low..=high).contains(s));
                    let reply = call(&engine, &["ZREMRANGEBYSCORE", "z", &low.to_string(), &high.to_string()]);
                    prop_assert_eq!(reply, (before - scores.len()).to_string());
                }
                ZStep::Check(count) => {
                    prop_assert_eq!(call(&engine, &["ZCARD", "z"]), scores.len().to_string());
                    prop_assert_eq!(call(&engine, &["EXISTS", "z"]), u8::from(!scores.is_empty()).to_string());
                    let mut scanned: Vec<(String, String)> = scan(&engine, &["ZSCAN", "z"], count)
                        .chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                    scanned.sort();
                    let expected: Vec<(String, String)> = scores.iter().map(|(m, s)| (m.clone(), s.to_string())).collect();
                    prop_assert_eq!(scanned, expected);
                }
            }
        }
        replicate(&engine, &copy);
        prop_assert_eq!(digests(&copy), digests(&engine));
    }

    #[test]
    fn lists_equal_a_vector(steps in prop::collection::vec(prop_oneof![
        10 => (element(), any::<bool>()).prop_map(|(v, left)| ListStep::Push(v, left)),
        3 => (0u8..4, any::<bool>()).prop_map(|(n, left)| ListStep::Pop(n, left)),
        2 => (-300i16..300, -300i16..300).prop_map(|(a, b)| ListStep::Range(a, b)),
        2 => (-200i16..200).prop_map(ListStep::Index),
        2 => (-200i16..200, element()).prop_map(|(at, v)| ListStep::Set(at, v)),
        2 => (-3i8..3, element()).prop_map(|(n, v)| ListStep::Rem(n, v)),
        1 => (0i16..20, -20i16..-1).prop_map(|(a, b)| ListStep::Trim(a, b)),
        2 => (element(), element(), any::<bool>()).prop_map(|(p, v, after)| ListStep::Insert(p, v, after)),
    ], 0..900)) {
        let (engine, copy) = (engine(), engine());
        let mut model = Vec::<String>::new();
        for step in steps {
            match step {
                ListStep::Push(value, left) => {
                    if left { model.insert(0, value.clone()) } else { model.push(value.clone()) }
                    let reply = call(&engine, &[if left { "LPUSH" } else { "RPUSH" }, "l", &value]);
                    prop_assert_eq!(reply, model.len().to_string());
                }
                ListStep::Pop(count, left) => {
                    let taken = usize::from(count).min(model.len());
                    let reply = call(&engine, &[if left { "LPOP" } else { "RPOP" }, "l", &count.to_string()]);
                    if model.is_empty() {
                        prop_assert_eq!(reply, "(nil)");
                    } else {
                        let popped: Vec<String> =
                            if left { model.drain(..taken).collect() } else { model.drain(model.len() - taken..).rev().collect() };
                        prop_assert_eq!(reply, array(popped.iter().map(String::as_str)));
                    }
                }
                ListStep::Range(start, end) => {
                    let part = &model[bounds(start, end, model.len())];
                    let reply = call(&engine, &["LRANGE", "l", &start.to_string(), &end.to_string()]);
                    prop_assert_eq!(reply, array(part.iter().map(String::as_str)));
                }
                ListStep::Index(at) => {
                    let place = if at < 0 { (model.len() as i64 + i64::from(at)).try_into().ok() } else { Some(at as usize) };
                    let expected = place.and_then(|p: usize| model.get(p)).map_or("(nil)".into(), |v| format!("\"{v}\""));
                    prop_assert_eq!(call(&engine, &["LINDEX", "l", &at.to_string()]), expected);
                }
                ListStep::Set(at, value) => {
                    let place = if at < 0 { (model.len() as i64 + i64::from(at)).try_into().ok() } else { Some(at as usize) };
                    let is_absent = model.is_empty();
                    let expected = match place.and_then(|p: usize| model.get_mut(p)) {
                        Some(old) => { *old = value.clone(); "OK" }
                        None if is_absent => "(error) ERR no such key",
                        None => "(error) ERR index out of range",
                    };
                    prop_assert_eq!(call(&engine, &["LSET", "l", &at.to_string(), &value]), expected);
                }
                ListStep::Rem(count, value) => {
                    let limit = if count == 0 { usize::MAX } else { count.unsigned_abs().into() };
                    let mut places: Vec<usize> = (0..model.len()).filter(|&at| model[at] == value).collect();
                    if count < 0 {
                        places.reverse();
                    }
                    places.truncate(limit);
                    places.sort_unstable();
                    places.iter().rev().for_each(|&at| drop(model.remove(at)));
                    prop_assert_eq!(call(&engine, &["LREM", "l", &count.to_string(), &value]), places.len().to_string());
                }
                ListStep::Trim(start, end) => {
                    model = model[bounds(start, end, model.len())].to_vec();
                    prop_assert_eq!(call(&engine, &["LTRIM", "l", &start.to_string(), &end.to_string()]), "OK");
                }
                ListStep::Insert(pivot, value, after) => {
                    let place = if after { "AFTER" } else { "BEFORE" };
                    let expected = match model.iter().position(|v| *v == pivot) {
                        _ if model.is_empty() => "0".to_owned(),
                        None => "-1".to_owned(),
                        Some(at) => {
                            model.insert(at + usize::from(after), value.clone());
                            model.len().to_string()
                        }
                    };
                    prop_assert_eq!(call(&engine, &["LINSERT", "l", place, &pivot, &value]), expected);
                }
            }
            prop_assert_eq!(call(&engine, &["LLEN", "l"]), model.len().to_string());
        }
        prop_assert_eq!(call(&engine, &["EXISTS", "l"]), u8::from(!model.is_empty()).to_string());
        replicate(&engine, &copy);
        prop_assert_eq!(digests(&copy), digests(&engine));
    }

    #[test]
    fn sets_equal_a_set(steps in prop::collection::vec(prop_oneof![
        10 => element().prop_map(SetStep::Add),
        4 => element().prop_map(SetStep::Rem),
        1 => (0u8..9).prop_map(SetStep::Pop),
        2 => element().prop_map(SetStep::Is),
        1 => (1u16..40).prop_map(SetStep::Check),
    ], 0..900)) {
        let (engine, copy) = (engine(), engine());
        let mut model = BTreeSet::<String>::new();
        for step in steps {
            match step {
                SetStep::Add(member) => {
                    let is_new = model.insert(member.clone());
                    prop_assert_eq!(call(&engine, &["SADD", "s", &member]), u8::from(is_new).to_string());
                }
                SetStep::Rem(member) => {
                    let was = model.remove(&member);
                    prop_assert_eq!(call(&engine, &["SREM", "s", &member]), u8::from(was).to_string());
                }
                SetStep::Pop(count) => {
                    let popped = strings(&call(&engine, &["SPOP", "s", &count.to_string()]));
                    prop_assert_eq!(popped.len(), usize::from(count).min(model.len()));
                    for member in popped {
                        prop_assert!(model.remove(&member), "{member} was there, once");
                    }
                }
                SetStep::Is(member) => {
                    let expected = u8::from(model.contains(&member)).to_string();
                    prop_assert_eq!(call(&engine, &["SISMEMBER", "s", &member]), expected);
                }
                SetStep::Check(count) => {
                    prop_assert_eq!(call(&engine, &["SCARD", "s"]), model.len().to_string());
                    let mut members = strings(&call(&engine, &["SMEMBERS", "s"]));
                    members.sort();
                    prop_assert!(members.iter().eq(model.iter()));
                    let mut scanned = scan(&engine, &["SSCAN", "s"], count);
                    scanned.sort();
                    prop_assert!(scanned.iter().eq(model.iter()));
                }
            }
        }
        replicate(&engine, &copy);
        prop_assert_eq!(digests(&copy), digests(&engine));
    }

    #[test]
    fn strings_equal_bytes_with_a_deadline(steps in prop::collection::vec((0u8..12, 0u8..6, 0u16..50, 0u32..3000), 0..400)) {
        let (engine, copy) = (engine(), engine());
        let (mut model, mut now) = (BTreeMap::<String, (Vec<u8>, Option<u64>)>::new(), NOW);
        for (kind, key, number, ms) in steps {
            let key = format!("k{key}");
            let call = |args: &[&str]| {
                let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
                execute(&engine, &args, now, Protocol::Resp2).1
            };
            let live = model.get(&key).is_some_and(|(_, at)| at.is_none_or(|at| at > now.0));
            if !live {
                model.remove(&key);
            }
            let entry = model.get(&key).cloned();
            let text = format!("v{number}");
            match kind {
                0 => {
                    prop_assert_eq!(call(&["SET", &key, &text]), "OK");
                    model.insert(key, (text.into_bytes(), None));
                }
                1 => {
                    prop_assert_eq!(call(&["SET", &key, &number.to_string(), "PX", &(ms + 1).to_string()]), "OK");
                    model.insert(key, (number.to_string().into_bytes(), Some(now.0 + u64::from(ms) + 1)));
                }
                2 => {
                    prop_assert_eq!(call(&["APPEND", &key, &text]), (entry.as_ref().map_or(0, |e| e.0.len()) + text.len()).to_string());
                    model.entry(key).or_insert((Vec::new(), None)).0.extend(text.bytes());
                }
                3 => {
                    let (old, at) = entry.unwrap_or((b"0".to_vec(), None));
                    let reply = call(&["INCRBY", &key, &number.to_string()]);
                    match std::str::from_utf8(&old).ok().and_then(|t| t.parse::<i64>().ok()) {
                        Some(old) => {
                            let sum = (old + i64::from(number)).to_string();
                            prop_assert_eq!(&reply, &sum);
                            model.insert(key, (sum.into_bytes(), at));
                        }
                        None => prop_assert_eq!(reply, "(error) ERR value is not an integer or out of range"),
                    }
                }
                4 => {
                    let (mut old, at) = entry.unwrap_or_default();
                    let offset = usize::from(number);
                    old.resize(old.len().max(offset + text.len()), 0);
                    old[offset..offset + text.len()].copy_from_slice(text.as_bytes());
                    prop_assert_eq!(call(&["SETRANGE", &key, &number.to_string(), &text]), old.len().to_string());
                    model.insert(key, (old, at));
                }
                5 => {
                    prop_assert_eq!(call(&["PEXPIRE", &key, &(ms + 1).to_string()]), u8::from(entry.is_some()).to_string());
                    if let Some(entry) = model.get_mut(&key) {
                        entry.1 = Some(now.0 + u64::from(ms) + 1);
                    }
                }
                6 => {
                    prop_assert_eq!(call(&["DEL", &key]), u8::from(entry.is_some()).to_string());
                    model.remove(&key);
                }
                7 => {
                    let expected = entry.as_ref().map_or(-2, |e| e.1.map_or(-1, |at| (at - now.0) as i64));
                    prop_assert_eq!(call(&["PTTL", &key]), expected.to_string());
                }
                8 => now = UnixMs(now.0 + u64::from(ms)),
                9 => {
                    let got = call(&["SET", &key, &text, "XX", "KEEPTTL", "GET"]);
                    prop_assert_eq!(got == "(nil)", entry.is_none());
                    if let Some((_, at)) = entry {
                        model.insert(key, (text.into_bytes(), at));
                    }
                }
                10 => drop(engine.expire_cycle(now, 50, &common::always)),
                _ => {
                    let expected = entry.map_or("(nil)".to_owned(), |(old, _)| format!("\"{}\"", old.escape_ascii()));
                    prop_assert_eq!(call(&["GET", &key]), expected);
                }
            }
        }
        replicate(&engine, &copy);
        prop_assert_eq!(digests(&copy), digests(&engine));
    }

    #[test]
    fn streams_equal_an_ordered_map(steps in prop::collection::vec((0u8..6, 0u64..60, 0u64..4, 0usize..40), 0..300)) {
        let (engine, copy) = (engine(), engine());
        let (mut model, mut last) = (BTreeMap::<(u64, u64), usize>::new(), (0, 0));
        for (number, (kind, ms, seq, count)) in steps.into_iter().enumerate() {
            let id = format!("{ms}-{seq}");
            match kind {
                0..3 => {
                    let reply = call(&engine, &["XADD", "x", &id, "n", &number.to_string()]);
                    if (ms, seq) > last {
                        prop_assert_eq!(reply, format!("\"{id}\""));
                        model.insert((ms, seq), number);
                        last = (ms, seq);
                    } else {
                        prop_assert!(reply.starts_with("(error)"), "{reply}");
                    }
                }
                3 => {
                    let was = model.remove(&(ms, seq)).is_some();
                    prop_assert_eq!(call(&engine, &["XDEL", "x", &id]), u8::from(was).to_string());
                }
                4 => {
                    let gone = model.len().saturating_sub(count);
                    prop_assert_eq!(call(&engine, &["XTRIM", "x", "MAXLEN", &count.to_string()]), gone.to_string());
                    (0..gone).for_each(|_| assert!(model.pop_first().is_some()));
                }
                _ => {
                    let entry = |(&(ms, seq), n): (&(u64, u64), &usize)| format!("[\"{ms}-{seq}\" [\"n\" \"{n}\"]]");
                    let show = |entries: Vec<String>| format!("[{}]", entries.join(" "));
                    let expected = show(model.range((ms, seq)..).map(entry).collect());
                    prop_assert_eq!(call(&engine, &["XRANGE", "x", &id, "+"]), expected);
                    let expected = show(model.range(..=(ms, seq)).rev().map(entry).collect());
                    prop_assert_eq!(call(&engine, &["XREVRANGE", "x", &id, "-"]), expected);
                    prop_assert_eq!(call(&engine, &["XLEN", "x"]), model.len().to_string());
                }
            }
        }
        replicate(&engine, &copy);
        prop_assert_eq!(digests(&copy), digests(&engine));
    }

    #[test]
    fn scan_finds_every_key_that_was_there_throughout(
        keys in 1usize..600, count in 1u16..50, churn in prop::collection::vec((any::<bool>(), 0u16..500), 0..400),
    ) {
        let engine = engine();
        for n in 0..keys {
            // Half of them in one slot, so that its table grows and shrinks meanwhile.
            let key = if n % 2 == 0 { format!("{{one}}stays{n}") } else { format!("stays{n}") };
            call(&engine, &["SET", &key, "v"]);
        }
        let (mut found, mut cursor, mut churn) = (Vec::new(), "0".to_owned(), churn.into_iter());
        loop {
            let reply = call(&engine, &["SCAN", &cursor, "COUNT", &count.to_string()]);
            let (next, keys) = reply[1..reply.len() - 1].split_once(' ').unwrap();
            found.extend(strings(keys));
            cursor = next.trim_matches('"').to_owned();
            if cursor == "0" {
                break;
            }
            prop_assert!(cursor.parse::<u64>().unwrap() < 1 << 53, "a JavaScript number holds it");
            for (add, n) in churn.by_ref().take(20) {
                let key = format!("{{one}}{n}");
                if add {
                    call(&engine, &["SETNX", &key, "v"]);
                } else {
                    call(&engine, &["DEL", &key]);
                }
            }
        }
        found.retain(|key| key.contains("stays"));
        found.sort();
        prop_assert_eq!(found.len(), keys);
        found.dedup();
        prop_assert_eq!(found.len(), keys);
    }
}
