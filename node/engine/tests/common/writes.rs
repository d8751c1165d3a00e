//! Command lines that write, as a proptest strategy.

use proptest::prelude::*;

/// Keys in a few slots, several of them in one; `{t}a` to `{t}e` stand close together.
pub fn key() -> impl Strategy<Value = String> {
    prop_oneof![(0u8..5).prop_map(|n| format!("{{t}}{n}")), (0u8..3).prop_map(|n| format!("k{n}")),]
}

fn element() -> impl Strategy<Value = String> {
    prop_oneof![4 => (0u16..12).prop_map(|n| format!("e{n}")), 1 => (0u16..400).prop_map(|n| format!("element-{n}"))]
}

/// Commands that write any type over any other, also many elements at once, so that collections leave their packed form.
pub fn command() -> impl Strategy<Value = String> {
    let many = |name: &'static str, scored: bool, valued: bool| {
        (key(), 100u16..400).prop_map(move |(key, count)| {
            let elements = (0..count).map(|n| match (scored, valued) {
                (true, _) => format!("{} element-{n}", n % 7),
                (_, true) => format!("element-{n} v{n}"),
                _ => format!("element-{n}"),
            });
            format!("{name} {key} {}", elements.collect::<Vec<_>>().join(" "))
        })
    };
    prop_oneof![
        3 => (key(), element()).prop_map(|(k, e)| format!("SET {k} {e}")),
        1 => (key(), element(), 1u32..5000).prop_map(|(k, e, t)| format!("SET {k} {e} PX {t}")),
        1 => key().prop_map(|k| format!("INCR {k}")),
        1 => (key(), element()).prop_map(|(k, e)| format!("APPEND {k} {e}")),
        1 => (key(), 0u8..40, element()).prop_map(|(k, at, e)| format!("SETRANGE {k} {at} {e}")),
        2 => key().prop_map(|k| format!("DEL {k}")),
        2 => (key(), 1u32..5000).prop_map(|(k, t)| format!("PEXPIRE {k} {t}")),
        1 => key().prop_map(|k| format!("PERSIST {k}")),
        1 => ((0u8..5), (0u8..5)).prop_map(|(a, b)| format!("RENAME {{t}}{a} {{t}}{b}")),
        1 => ((0u8..5), (0u8..5)).prop_map(|(a, b)| format!("COPY {{t}}{a} {{t}}{b} REPLACE")),
        3 => (key(), element(), element()).prop_map(|(k, f, v)| format!("HSET {k} {f} {v}")),
        2 => (key(), element()).prop_map(|(k, f)| format!("HDEL {k} {f}")),
        1 => (key(), element()).prop_map(|(k, f)| format!("HINCRBY {k} {f} 3")),
        3 => (key(), -9i32..9, element()).prop_map(|(k, s, m)| format!("ZADD {k} {s} {m}")),
        2 => (key(), element()).prop_map(|(k, m)| format!("ZREM {k} {m}")),
        1 => (key(), 0u8..80).prop_map(|(k, n)| format!("ZPOPMIN {k} {n}")),
        2 => (key(), element()).prop_map(|(k, m)| format!("SADD {k} {m}")),
        1 => (key(), 0u16..200).prop_map(|(k, n)| format!("SPOP {k} {n}")),
        2 => (key(), element()).prop_map(|(k, m)| format!("RPUSH {k} {m}")),
        1 => (key(), element()).prop_map(|(k, m)| format!("LPUSH {k} {m}")),
        1 => (key(), element()).prop_map(|(k, m)| format!("LREM {k} 0 {m}")),
        1 => key().prop_map(|k| format!("LTRIM {k} 1 -2")),
        1 => (key(), 1u8..40).prop_map(|(k, n)| format!("LPOP {k} {n}")),
        1 => (key(), 1u8..40).prop_map(|(k, n)| format!("RPOP {k} {n}")),
        1 => (key(), -40i8..40, element()).prop_map(|(k, at, m)| format!("LSET {k} {at} {m}")),
        1 => (key(), element(), element()).prop_map(|(k, p, m)| format!("LINSERT {k} BEFORE {p} {m}")),
        1 => ((0u8..5), (0u8..5)).prop_map(|(a, b)| format!("SUNIONSTORE {{t}}{a} {{t}}{a} {{t}}{b}")),
        1 => ((0u8..5), (0u8..5)).prop_map(|(a, b)| format!("LMOVE {{t}}{a} {{t}}{b} LEFT RIGHT")),
        4 => (key(), 1u32..90, element()).prop_map(|(k, ms, v)| format!("XADD {k} {ms}-* f {v}")),
        1 => (key(), 1u32..90).prop_map(|(k, ms)| format!("XADD {k} MAXLEN 20 {ms}-* f v")),
        1 => (key(), 1u32..90).prop_map(|(k, ms)| format!("XDEL {k} {ms}-0 {ms}-1")),
        1 => (key(), 0u32..40).prop_map(|(k, n)| format!("XTRIM {k} MAXLEN {n}")),
        1 => (key(), 0u32..90).prop_map(|(k, ms)| format!("XTRIM {k} MINID {ms}")),
        2 => (key(), 0u8..2).prop_map(|(k, g)| format!("XGROUP CREATE {k} g{g} 0 MKSTREAM")),
        1 => (key(), 0u8..2).prop_map(|(k, g)| format!("XGROUP DESTROY {k} g{g}")),
        3 => (key(), 0u8..2, 0u8..3).prop_map(|(k, g, c)| format!("XREADGROUP GROUP g{g} c{c} COUNT 7 STREAMS {k} >")),
        1 => (key(), 0u8..2, 0u8..3).prop_map(|(k, g, c)| format!("XAUTOCLAIM {k} g{g} c{c} 0 0 COUNT 3")),
        1 => (key(), 0u8..2, 0u8..3).prop_map(|(k, g, c)| format!("XGROUP DELCONSUMER {k} g{g} c{c}")),
        1 => (key(), 0u8..2, 1u32..90).prop_map(|(k, g, ms)| format!("XACK {k} g{g} {ms}-0 {ms}-1")),
        1 => (key(), 0u32..400).prop_map(|(k, bit)| format!("SETBIT {k} {bit} 1")),
        1 => (key(), element()).prop_map(|(k, e)| format!("PFADD {k} {e}")),
        1 => ((0u8..5), (0u8..5)).prop_map(|(a, b)| format!("ZUNIONSTORE {{t}}{a} 2 {{t}}{a} {{t}}{b}")),
        1 => many("HSET", false, true),
        1 => many("SADD", false, false),
        1 => many("ZADD", true, false),
        1 => many("RPUSH", false, false),
    ]
}
