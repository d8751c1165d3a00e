//! A cache as plain collections, and the steps that are made of a fuzzer's bytes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of which decisions are made, until they end.
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// Short names of which few differ, so that they meet; sometimes long ones, which collections keep in another way.
    fn word(&mut self) -> Option<Vec<u8>> {
        let byte = self.byte()?;
        Some(match byte {
            0..=199 => format!("w{}", byte % 67).into_bytes(),
            200..=219 => (i64::from(byte) - 210).to_string().into_bytes(),
            220..=239 => vec![byte; usize::from(byte - 219) * 7],
            _ => {
                let len = usize::from(self.byte()?).min(self.0.len());
                let (word, rest) = self.0.split_at(len);
                self.0 = rest;
                word.to_vec()
            }
        })
    }

    fn index(&mut self) -> Option<i64> {
        Some(i64::from(self.byte()? as i8))
    }

    fn score(&mut self) -> Option<f64> {
        Some(f64::from(self.byte()? as i8) / 4.0)
    }
}

#[derive(Debug)]
enum Value {
    String(Vec<u8>),
    List(VecDeque<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Sorted(BTreeMap<Vec<u8>, f64>),
    Stream { entries: BTreeMap<u64, (Vec<u8>, Vec<u8>)>, last: u64 },
}

/// What a reply must be.
pub enum Expected {
    Is(Vec<u8>),
    /// An array of these bulk strings, in any order.
    AnyOrder(Vec<Vec<u8>>),
    /// An array of pairs in any order.
    PairsInAnyOrder(Vec<(Vec<u8>, Vec<u8>)>),
    /// An error that begins so.
    Error(&'static str),
}

impl Expected {
    pub fn check(&self, reply: &[u8], args: &[&[u8]]) {
        let shown = || {
            let args: Vec<_> = args.iter().map(|arg| arg.escape_ascii().to_string()).collect();
            format!("{} replied {}", args.join(" "), reply.escape_ascii())
        };
        match self {
            Self::Is(expected) => {
                assert!(reply == expected, "{} instead of {}", shown(), expected.escape_ascii());
            }
            Self::AnyOrder(items) => {
                let (mut found, mut items) = (bulks(reply), items.clone());
                found.sort();
                items.sort();
                assert!(found == items, "{}", shown());
            }
            Self::PairsInAnyOrder(pairs) => {
                let mut found: Vec<_> = bulks(reply).chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
                let mut pairs = pairs.clone();
                found.sort();
                pairs.sort();
                assert!(found == pairs, "{}", shown());
            }
            Self::Error(start) => assert!(reply.starts_with(start.as_bytes()), "{}", shown()),
        }
    }
}

/// The items of an array of bulk strings.
fn bulks(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = reply;
    let line = |rest: &mut &[u8]| {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a line");
        let text = std::str::from_utf8(&rest[1..end]).expect("a number").parse::<usize>().expect("a number");
        *rest = &rest[end + 2..];
        text
    };
    let count = line(&mut rest);
    (0..count)
        .map(|_| {
            let len = line(&mut rest);
            let (item, behind) = rest.split_at(len);
            rest = &behind[2..];
            item.to_vec()
        })
        .collect()
}

fn int(value: impl TryInto<i64>) -> Expected {
    Expected::Is(format!(":{}\r\n", value.try_into().ok().expect("it fits")).into_bytes())
}

fn bulk_bytes(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn bulk(bytes: Option<&[u8]>) -> Expected {
    Expected::Is(bytes.map_or_else(|| b"$-1\r\n".to_vec(), bulk_bytes))
}

fn array<'a>(items: impl ExactSizeIterator<Item = &'a [u8]>) -> Expected {
    let mut reply = format!("*{}\r\n", items.len()).into_bytes();
    items.for_each(|item| reply.extend(bulk_bytes(item)));
    Expected::Is(reply)
}

fn ok() -> Expected {
    Expected::Is(b"+OK\r\n".to_vec())
}

const WRONG_TYPE: Expected = Expected::Error("-WRONGTYPE");

/// Where a range of ranks begins and ends, as commands count them.
fn range(start: i64, end: i64, len: usize) -> std::ops::Range<usize> {
    let len = len as i64;
    let from_start = |rank: i64| if rank < 0 { rank + len } else { rank };
    let (start, end) = (from_start(start).max(0), from_start(end).min(len - 1));
    if start > end { 0..0 } else { start as usize..end as usize + 1 }
}

fn number(score: f64) -> Vec<u8> {
    if score == score.trunc() { format!("{score:.0}").into_bytes() } else { score.to_string().into_bytes() }
}

#[derive(Default)]
pub struct Model {
    keys: BTreeMap<Vec<u8>, Value>,
}

macro_rules! of_type {
    ($model:expr, $key:expr, $kind:ident, $empty:expr) => {
        match $model.keys.entry($key.clone()).or_insert_with(|| Value::$kind($empty)) {
            Value::$kind(value) => value,
            _ => return Some(WRONG_TYPE),
        }
    };
}

impl Model {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The next command and what it replies.
    pub fn step(&mut self, source: &mut Source<'_>) -> Option<(Vec<Vec<u8>>, Expected)> {
        let family = source.byte()?;
        let key = format!("key{}", source.byte()? % 5).into_bytes();
        let mut args = Vec::new();
        let expected = match family % 16 {
            0 => {
                args.extend([b"DEL".to_vec(), key.clone()]);
                int(self.keys.remove(&key).is_some() as u8)
            }
            1 | 2 => self.string(source, &key, &mut args)?,
            3..=6 => self.list(source, &key, &mut args)?,
            7..=9 => self.hash(source, &key, &mut args)?,
            10 | 11 => self.set(source, &key, &mut args)?,
            12..=14 => self.sorted(source, &key, &mut args)?,
            _ => self.stream(source, &key, &mut args)?,
        };
        // What is empty is gone; so is what a refused command would have made.
        self.keys.retain(|_, value| match value {
            Value::String(_) | Value::Stream { .. } => true,
            Value::List(list) => !list.is_empty(),
            Value::Hash(hash) => !hash.is_empty(),
            Value::Set(set) => !set.is_empty(),
            Value::Sorted(set) => !set.is_empty(),
        });
        Some((args, expected))
    }

    fn string(&mut self, source: &mut Source<'_>, key: &Vec<u8>, args: &mut Vec<Vec<u8>>) -> Option<Expected> {
        let mut say = |words: &[&[u8]]| args.extend(words.iter().map(|word| word.to_vec()));
        let string = |model: &Self| match model.keys.get(key) {
            None => Ok(Vec::new()),
            Some(Value::String(string)) => Ok(string.clone()),
            Some(_) => Err(WRONG_TYPE),
        };
        Some(match source.byte()? % 5 {
            0 => {
                let value = source.word()?;
                say(&[b"SET", key, &value]);
                self.keys.insert(key.clone(), Value::String(value));
                ok()
            }
            1 => {
                say(&[b"GET", key]);
                match string(self) {
                    Ok(string) => bulk(self.keys.contains_key(key).then_some(&string)),
                    Err(error) => error,
                }
            }
            2 => {
                let value = source.word()?;
                say(&[b"APPEND", key, &value]);
                match string(self) {
                    Ok(mut string) => {
                        string.extend(&value);
                        let len = string.len();
                        self.keys.insert(key.clone(), Value::String(string));
                        int(len as u64)
                    }
                    Err(error) => error,
                }
            }
            3 => {
                let (offset, value) = (usize::from(source.byte()?), source.word()?);
                say(&[b"SETRANGE", key, offset.to_string().as_bytes(), &value]);
                match string(self) {
                    Ok(mut string) if !value.is_empty() => {
                        string.resize(string.len().max(offset + value.len()), 0);
                        string[offset..offset + value.len()].copy_from_slice(&value);
                        let len = string.len();
                        self.keys.insert(key.clone(), Value::String(string));
                        int(len as u64)
                    }
                    Ok(string) => int(string.len() as u64),
                    Err(error) => error,
                }
            }
            _ => {
                let (start, end) = (source.index()?, source.index()?);
                say(&[b"GETRANGE", key, start.to_string().as_bytes(), end.to_string().as_bytes()]);
                match string(self) {
                    // From one end of nothing to the other is what is nearest to nothing: the rule is for ranks from the end.
                    Ok(string) if start < 0 && end < 0 && start > end => bulk(Some(&string[..0])),
                    Ok(string) => {
                        let end = if end < -(string.len() as i64) { -(string.len() as i64) } else { end };
                        bulk(Some(&string[range(start, end, string.len())]))
                    }
                    Err(error) => error,
                }
            }
        })
    }

    fn list(&mut self, source: &mut Source<'_>, key: &Vec<u8>, args: &mut Vec<Vec<u8>>) -> Option<Expected> {
        let mut say = |words: &[&[u8]]| args.extend(words.iter().map(|word| word.to_vec()));
        let what = source.byte()? % 10;
        Some(match what {
            0..=2 => {
                let words = [source.word()?, source.word()?];
                let left = what == 0;
                say(&[if left { b"LPUSH" } else { b"RPUSH" }, key, &words[0], &words[1]]);
                let list = of_type!(self, key, List, VecDeque::new());
                words.into_iter().for_each(|word| if left { list.push_front(word) } else { list.push_back(word) });
                int(list.len() as u64)
            }
            3 => {
                say(&[b"LPOP", key]);
                bulk(of_type!(self, key, List, VecDeque::new()).pop_front().as_deref())
            }
            4 => {
                say(&[b"RPOP", key]);
                bulk(of_type!(self, key, List, VecDeque::new()).pop_back().as_deref())
            }
            5 => {
                let (pivot, word, before) = (source.word()?, source.word()?, source.byte()? % 2 == 0);
                say(&[b"LINSERT", key, if before { b"BEFORE" } else { b"AFTER" }, &pivot, &word]);
                let list = of_type!(self, key, List, VecDeque::new());
                match list.iter().position(|item| *item == pivot) {
                    _ if list.is_empty() => int(0),
                    None => int(-1),
                    Some(at) => {
                        list.insert(if before { at } else { at + 1 }, word);
                        int(list.len() as u64)
                    }
                }
            }
            6 => {
                let (index, word) = (source.index()?, source.word()?);
                say(&[b"LSET", key, index.to_string().as_bytes(), &word]);
                let list = of_type!(self, key, List, VecDeque::new());
                let at = if index < 0 { index + list.len() as i64 } else { index };
                match usize::try_from(at).ok().filter(|at| *at < list.len()) {
                    Some(at) => {
                        list[at] = word;
                        ok()
                    }
                    None if list.is_empty() => Expected::Error("-ERR no such key"),
                    None => Expected::Error("-ERR index out of range"),
                }
            }
            7 => {
                let (count, word) = (source.index()?, source.word()?);
                say(&[b"LREM", key, count.to_string().as_bytes(), &word]);
                let list = of_type!(self, key, List, VecDeque::new());
                let most = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
                let mut doomed: Vec<usize> = (0..list.len()).filter(|at| list[*at] == word).collect();
                if count < 0 {
                    doomed.reverse();
                }
                doomed.truncate(most);
                doomed.sort_unstable_by(|a, b| b.cmp(a));
                doomed.iter().for_each(|at| drop(list.remove(*at)));
                int(doomed.len() as u64)
            }
            8 => {
                let (start, end) = (source.index()?, source.index()?);
                say(&[b"LTRIM", key, start.to_string().as_bytes(), end.to_string().as_bytes()]);
                let list = of_type!(self, key, List, VecDeque::new());
                *list = list.range(range(start, end, list.len())).cloned().collect();
                ok()
            }
            _ => {
                let (start, end) = (source.index()?, source.index()?);
                say(&[b"LRANGE", key, start.to_string().as_bytes(), end.to_string().as_bytes()]);
                let list = of_type!(self, key, List, VecDeque::new());
                array(list.range(range(start, end, list.len())).map(Vec::as_slice))
            }
        })
    }

    fn hash(&mut self, source: &mut Source<'_>, key: &Vec<u8>, args: &mut Vec<Vec<u8>>) -> Option<Expected> {
        let mut say = |words: &[&[u8]]| args.extend(words.iter().map(|word| word.to_vec()));
        Some(match source.byte()? % 6 {
            0..=2 => {
                let (field, value) = (source.word()?, source.word()?);
                say(&[b"HSET", key, &field, &value]);
                int(of_type!(self, key, Hash, BTreeMap::new()).insert(field, value).is_none() as u8)
            }
            3 => {
                let field = source.word()?;
                say(&[b"HDEL", key, &field]);
                int(of_type!(self, key, Hash, BTreeMap::new()).remove(&field).is_some() as u8)
            }
            4 => {
                let field = source.word()?;
                say(&[b"HGET", key, &field]);
                bulk(of_type!(self, key, Hash, BTreeMap::new()).get(&field).map(Vec::as_slice))
            }
            _ => {
                say(&[b"HGETALL", key]);
                let hash = of_type!(self, key, Hash, BTreeMap::new());
                Expected::PairsInAnyOrder(hash.iter().map(|(field, value)| (field.clone(), value.clone())).collect())
            }
        })
    }

    fn set(&mut self, source: &mut Source<'_>, key: &Vec<u8>, args: &mut Vec<Vec<u8>>) -> Option<Expected> {
        let mut say = |words: &[&[u8]]| args.extend(words.iter().map(|word| word.to_vec()));
        Some(match source.byte()? % 6 {
            0..=2 => {
                let words = [source.word()?, source.word()?];
                say(&[b"SADD", key, &words[0], &words[1]]);
                let set = of_type!(self, key, Set, BTreeSet::new());
                int(words.into_iter().filter(|word| set.insert(word.clone())).count() as u64)
            }
            3 => {
                let word = source.word()?;
                say(&[b"SREM", key, &word]);
                int(of_type!(self, key, Set, BTreeSet::new()).remove(&word) as u8)
            }
            4 => {
                let word = source.word()?;
                say(&[b"SISMEMBER", key, &word]);
                int(of_type!(self, key, Set, BTreeSet::new()).contains(&word) as u8)
            }
            _ => {
                say(&[b"SMEMBERS", key]);
                Expected::AnyOrder(of_type!(self, key, Set, BTreeSet::new()).iter().cloned().collect())
            }
        })
    }

    fn sorted(&mut self, source: &mut Source<'_>, key: &Vec<u8>, args: &mut Vec<Vec<u8>>) -> Option<Expected> {
        let mut say = |words: &[&[u8]]| args.extend(words.iter().map(|word| word.to_vec()));
        let in_order = |set: &BTreeMap<Vec<u8>, f64>| {
            let mut members: Vec<(Vec<u8>, f64)> = set.iter().map(|(member, score)| (member.clone(), *score)).collect();
            members.sort_by(|a, b| a.1.total_cmp(&b.1).then_with(|| a.0.cmp(&b.0)));
            members
        };
        Some(match source.byte()? % 8 {
            0..=2 => {
                let (score, member) = (source.score()?, source.word()?);
                say(&[b"ZADD", key, &number(score), &member]);
                int(of_type!(self, key, Sorted, BTreeMap::new()).insert(member, score + 0.0).is_none() as u8)
            }
            3 => {
                let member = source.word()?;
                say(&[b"ZREM", key, &member]);
                int(of_type!(self, key, Sorted, BTreeMap::new()).remove(&member).is_some() as u8)
            }
            4 => {
                let member = source.word()?;
                say(&[b"ZSCORE", key, &member]);
                let score = of_type!(self, key, Sorted, BTreeMap::new()).get(&member).map(|score| number(*score));
                bulk(score.as_deref())
            }
            5 => {
                let member = source.word()?;
                say(&[b"ZRANK", key, &member]);
                let set = of_type!(self, key, Sorted, BTreeMap::new());
                match in_order(set).iter().position(|(other, _)| *other == member) {
                    Some(rank) => int(rank as u64),
                    None => bulk(None),
                }
            }
            6 => {
                let (least, most) = (source.score()?, source.score()?);
                say(&[b"ZCOUNT", key, &number(least), &number(most)]);
                let set = of_type!(self, key, Sorted, BTreeMap::new());
                int(set.values().filter(|score| **score >= least && **score <= most).count() as u64)
            }
            _ => {
                let (start, end) = (source.index()?, source.index()?);
                say(&[b"ZRANGE", key, start.to_string().as_bytes(), end.to_string().as_bytes(), b"WITHSCORES"]);
                let set = of_type!(self, key, Sorted, BTreeMap::new());
                let members = in_order(set);
                let shown: Vec<Vec<u8>> =
                    members[range(start, end, members.len())].iter().flat_map(|(m, score)| [m.clone(), number(*score)]).collect();
                array(shown.iter().map(Vec::as_slice))
            }
        })
    }

    fn stream(&mut self, source: &mut Source<'_>, key: &Vec<u8>, args: &mut Vec<Vec<u8>>) -> Option<Expected> {
        let mut say = |words: &[&[u8]]| args.extend(words.iter().map(|word| word.to_vec()));
        let what = source.byte()? % 6;
        let id = |number: u64| format!("{number}-0").into_bytes();
        match self.keys.get(key) {
            Some(Value::Stream { .. }) | None => {}
            Some(_) => {
                say(&[b"XLEN", key]);
                return Some(WRONG_TYPE);
            }
        }
        if what > 2 && !self.keys.contains_key(key) {
            say(&[b"XLEN", key]);
            return Some(int(0));
        }
        let stream = self.keys.entry(key.clone()).or_insert(Value::Stream { entries: BTreeMap::new(), last: 0 });
        let Value::Stream { entries, last } = stream else { return None };
        Some(match what {
            0..=2 => {
                let number = *last + 1 + u64::from(source.byte().unwrap_or(0) % 8);
                let (field, value) = (source.word().unwrap_or_default(), source.word().unwrap_or_default());
                say(&[b"XADD", key, &id(number), &field, &value]);
                *last = number;
                entries.insert(number, (field, value));
                bulk(Some(&id(number)))
            }
            3 => {
                let number = u64::from(source.byte()?);
                say(&[b"XDEL", key, &id(number)]);
                int(entries.remove(&number).is_some() as u8)
            }
            4 => {
                let most = usize::from(source.byte()? % 32);
                say(&[b"XTRIM", key, b"MAXLEN", most.to_string().as_bytes()]);
                let gone = entries.len().saturating_sub(most);
                (0..gone).for_each(|_| drop(entries.pop_first()));
                int(gone as u64)
            }
            _ => {
                let (from, to) = (u64::from(source.byte()?), u64::from(source.byte()?));
                say(&[b"XRANGE", key, &id(from), &id(to)]);
                let found: Vec<_> = if from <= to { entries.range(from..=to).collect() } else { Vec::new() };
                let mut reply = format!("*{}\r\n", found.len()).into_bytes();
                for (number, (field, value)) in found {
                    reply.extend_from_slice(b"*2\r\n");
                    reply.extend(bulk_bytes(&id(*number)));
                    reply.extend_from_slice(b"*2\r\n");
                    reply.extend(bulk_bytes(field));
                    reply.extend(bulk_bytes(value));
                }
                Expected::Is(reply)
            }
        })
    }
}
