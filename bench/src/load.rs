//! The loads: what is asked of a server, and what it has to answer.
//!
//! Keys, values and members follow from a number, so every reply can be checked to the byte wherever the protocol determines it.

use std::io::Write as _;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Resp,
    /// memcached's text protocol.
    Memcached,
}

/// How many different keys the loads on strings use.
pub(crate) const KEYS: u64 = 100_000;
/// How many different collections and counters the other loads use.
const COLLECTIONS: u64 = 1_000;
/// How many fields or members each collection is given, lists apart.
const ELEMENTS: u64 = 100;

/// Counts calls in a window of ARGV[1] ms and says whether ARGV[2] of them are not exceeded. One line, without double quotes.
pub(crate) const LIMITER: &str = "local n = redis.call('INCR', KEYS[1]) if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end \
                                  return n <= tonumber(ARGV[2]) and 1 or 0";
/// What EVALSHA calls it.
pub(crate) const LIMITER_SHA: &str = "d44204219b72b4f0624df1859a0509113544f432";

/// One kind of request, made from a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Set,
    Get,
    Incr,
    Hset,
    Lpush,
    Zadd,
    /// A rate limiter, as a script.
    Limit,
    /// Fills: one new item a number.
    FillString,
    FillStringTtl,
    FillHash,
    /// An expiry for what `FillHash` made.
    ExpireHash,
    FillSortedSet,
    FillSet,
    FillList,
}

/// What the reply has to be.
#[derive(Debug)]
pub(crate) enum Expect {
    /// These bytes.
    Exactly(&'static [u8]),
    /// The value of a key.
    Value(u64),
    /// Any integer.
    Integer,
}

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Get => "GET",
            Self::Incr => "INCR",
            Self::Hset => "HSET",
            Self::Lpush => "LPUSH",
            Self::Zadd => "ZADD",
            Self::Limit => "EVALSHA of a rate limiter",
            Self::FillString => "strings of 16 + 64 bytes",
            Self::FillStringTtl => "strings of 16 + 64 bytes with an expiry",
            Self::FillHash => "hashes of five 16-byte fields",
            Self::ExpireHash => "hashes of five 16-byte fields with an expiry",
            Self::FillSortedSet => "members of one sorted set, 16 bytes each",
            Self::FillSet => "members of one set, 16 bytes each",
            Self::FillList => "elements of one list, 16 bytes each",
        }
    }

    /// Appends the request that the number stands for.
    pub(crate) fn request(self, dialect: Dialect, number: u64, out: &mut Vec<u8>) -> Expect {
        match dialect {
            Dialect::Resp => self.resp(number, out),
            Dialect::Memcached => self.memcached(number, out),
        }
    }

    fn resp(self, number: u64, out: &mut Vec<u8>) -> Expect {
        let key = number % KEYS;
        let (collection, element) = (number % COLLECTIONS, number / COLLECTIONS % ELEMENTS);
        match self {
            Self::Set => {
                command(out, &[b"SET", &key_of(key), &value_of(key)]);
                Expect::Exactly(b"+OK\r\n")
            }
            Self::Get => {
                command(out, &[b"GET", &key_of(key)]);
                Expect::Value(key)
            }
            Self::Incr => {
                command(out, &[b"INCR", &named(b"counter:", collection)]);
                Expect::Integer
            }
            Self::Hset => {
                command(out, &[b"HSET", &named(b"hash:", collection), &named(b"field:", element), &short(number)]);
                Expect::Integer
            }
            Self::Lpush => {
                command(out, &[b"LPUSH", &named(b"list:", collection), &short(number)]);
                Expect::Integer
            }
            Self::Zadd => {
                let score = scrambled(number) % 1_000_000;
                command(out, &[b"ZADD", &named(b"board:", collection), &decimal(score), &short(element)]);
                Expect::Integer
            }
            Self::Limit => {
                let sha = LIMITER_SHA.as_bytes();
                command(out, &[b"EVALSHA", sha, b"1", &named(b"limit:", collection), b"60000", b"100"]);
                Expect::Integer
            }
            Self::FillString => {
                command(out, &[b"SET", &key_of(number), &value_of(number)]);
                Expect::Exactly(b"+OK\r\n")
            }
            Self::FillStringTtl => {
                command(out, &[b"SET", &key_of(number), &value_of(number), b"EX", b"86400"]);
                Expect::Exactly(b"+OK\r\n")
            }
            Self::FillHash => {
                let key = key_of(number);
                let values = [0, 1, 2, 3, 4].map(|field| short(number.wrapping_mul(5).wrapping_add(field)));
                let [a, b, c, d, e] = &values;
                command(out, &[b"HSET", &key, b"field1", a, b"field2", b, b"field3", c, b"field4", d, b"field5", e]);
                Expect::Exactly(b":5\r\n")
            }
            Self::ExpireHash => {
                command(out, &[b"EXPIRE", &key_of(number), b"86400"]);
                Expect::Exactly(b":1\r\n")
            }
            Self::FillSortedSet => {
                command(out, &[b"ZADD", b"board", &decimal(scrambled(number) % 1_000_000_000), &short(number)]);
                Expect::Exactly(b":1\r\n")
            }
            Self::FillSet => {
                command(out, &[b"SADD", b"set", &short(number)]);
                Expect::Exactly(b":1\r\n")
            }
            Self::FillList => {
                command(out, &[b"RPUSH", b"list", &short(number)]);
                Expect::Integer
            }
        }
    }

    /// Only what memcached has; the others stand for a set.
    fn memcached(self, number: u64, out: &mut Vec<u8>) -> Expect {
        let (key, ttl) = match self {
            Self::Get => {
                let key = number % KEYS;
                out.extend_from_slice(b"get ");
                out.extend_from_slice(&key_of(key));
                out.extend_from_slice(b"\r\n");
                return Expect::Value(key);
            }
            Self::FillString => (number, "0"),
            Self::FillStringTtl => (number, "86400"),
            _ => (number % KEYS, "0"),
        };
        out.extend_from_slice(b"set ");
        out.extend_from_slice(&key_of(key));
        // Writing to a vector cannot fail.
        let _ = write!(out, " 0 {ttl} 64\r\n");
        out.extend_from_slice(&value_of(key));
        out.extend_from_slice(b"\r\n");
        Expect::Exactly(b"STORED\r\n")
    }

    pub(crate) fn is_known_to(self, dialect: Dialect) -> bool {
        let strings = matches!(self, Self::Set | Self::Get | Self::FillString | Self::FillStringTtl);
        dialect == Dialect::Resp || strings
    }
}

impl Expect {
    /// How long the reply at the front of `input` is, once all of it is there. An error shows what came instead.
    pub(crate) fn check(&self, dialect: Dialect, input: &[u8]) -> anyhow::Result<Option<usize>> {
        match self {
            Self::Exactly(bytes) => begins_with(input, bytes),
            Self::Integer => match input.iter().position(|&byte| byte == b'\n') {
                None => Ok(None),
                Some(end) => match input.get(..end) {
                    Some([b':', digits @ .., b'\r']) if digits.iter().all(u8::is_ascii_digit) => Ok(Some(end + 1)),
                    _ => Err(unexpected(input)),
                },
            },
            Self::Value(key) => {
                let mut reply = Vec::with_capacity(128);
                match dialect {
                    Dialect::Resp => reply.extend_from_slice(b"$64\r\n"),
                    Dialect::Memcached => {
                        reply.extend_from_slice(b"VALUE ");
                        reply.extend_from_slice(&key_of(*key));
                        reply.extend_from_slice(b" 0 64\r\n");
                    }
                }
                reply.extend_from_slice(&value_of(*key));
                reply.extend_from_slice(match dialect {
                    Dialect::Resp => b"\r\n",
                    Dialect::Memcached => b"\r\nEND\r\n",
                });
                begins_with(input, &reply)
            }
        }
    }
}

fn begins_with(input: &[u8], reply: &[u8]) -> anyhow::Result<Option<usize>> {
    let there = reply.len().min(input.len());
    if input.get(..there) != reply.get(..there) {
        return Err(unexpected(input));
    }
    Ok((there == reply.len()).then_some(there))
}

fn unexpected(input: &[u8]) -> anyhow::Error {
    anyhow::anyhow!("unexpected reply: {}", input.get(..120).unwrap_or(input).escape_ascii())
}

fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    out.push(b'*');
    out.extend_from_slice(&decimal(args.len() as u64));
    for arg in args {
        out.extend_from_slice(b"\r\n$");
        out.extend_from_slice(&decimal(arg.len() as u64));
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(arg);
    }
    out.extend_from_slice(b"\r\n");
}

/// A well mixed number for each number (the finaliser of SplitMix64).
pub(crate) fn scrambled(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// 16 bytes.
fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    write_digits(&mut key, number);
    key
}

/// 16 bytes of another kind.
fn short(number: u64) -> [u8; 16] {
    let mut text = *b"element-00000000";
    write_digits(&mut text, number);
    text
}

/// 64 bytes that no other number gives.
fn value_of(number: u64) -> [u8; 64] {
    let mut value = [0; 64];
    let digits = scrambled(number.wrapping_add(1));
    for (place, index) in value.iter_mut().zip(0u32..) {
        let digit = (digits.rotate_left(index * 5) & 0xf) as u8;
        *place = b'a' + digit;
    }
    value
}

fn named(prefix: &[u8], number: u64) -> Vec<u8> {
    let mut name = prefix.to_vec();
    name.extend_from_slice(&decimal(number));
    name
}

fn decimal(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// Puts the number's digits at the end of the text.
fn write_digits(text: &mut [u8], mut number: u64) {
    for place in text.iter_mut().rev() {
        if number == 0 {
            break;
        }
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_checked_to_the_byte_and_waited_for() {
        let mut reply = b"$64\r\n".to_vec();
        reply.extend_from_slice(&value_of(7));
        reply.extend_from_slice(b"\r\n+OK\r\n");
        let check = |expect: Expect, input: &[u8]| expect.check(Dialect::Resp, input).ok();
        assert_eq!(check(Expect::Value(7), &reply), Some(Some(71)));
        assert_eq!(check(Expect::Value(7), &reply[..40]), Some(None));
        assert_eq!(check(Expect::Value(8), &reply), None);
        assert_eq!(check(Expect::Integer, b":12\r\n"), Some(Some(5)));
        assert_eq!(check(Expect::Integer, b"-ERR no\r\n"), None);
        assert_eq!(check(Expect::Exactly(b"+OK\r\n"), b"-E"), None);
    }

    #[test]
    fn requests_have_the_sizes_that_their_names_promise() {
        assert_eq!((key_of(999_999).len(), short(5).len(), value_of(3).len()), (16, 16, 64));
        let mut out = Vec::new();
        Load::Get.request(Dialect::Resp, 12, &mut out);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000012\r\n");
    }
}
