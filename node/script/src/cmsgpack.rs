//! `cmsgpack`: MessagePack as lua-cmsgpack reads and writes it.

use mlua::{Lua, MultiValue, Result, Table, Value};

use crate::arguments::{Arguments, Failure, function, one};

type Unpacked<T> = std::result::Result<T, Failure>;

/// Tables nested deeper are written as nil, so that a table that contains itself comes to an end.
const DEPTH_MAX: usize = 16;

pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let cmsgpack = lua.create_table()?;
    let pack = |lua: &Lua, args: &Arguments<'_>| {
        if args.len() == 0 {
            return Err(Failure::Argument(0, "MessagePack pack needs input.".into()));
        }
        let mut out = Vec::new();
        args.values().try_for_each(|value| pack(value, 0, &mut out))?;
        Ok(one(Value::String(lua.create_string(&out)?)))
    };
    cmsgpack.set("pack", function(lua, pack)?)?;
    cmsgpack.set("unpack", function(lua, |lua, args| unpack_some(lua, args, 0, 0))?)?;
    let limited = |lua: &Lua, args: &Arguments<'_>| unpack_some(lua, args, args.integer(2)?, args.integer_or(3, 0)?);
    cmsgpack.set("unpack_limit", function(lua, limited)?)?;
    let one_value = |lua: &Lua, args: &Arguments<'_>| unpack_some(lua, args, 1, args.integer_or(2, 0)?);
    cmsgpack.set("unpack_one", function(lua, one_value)?)?;
    cmsgpack.set("_NAME", "cmsgpack")?;
    cmsgpack.set("_VERSION", "lua-cmsgpack 0.4.0")?;
    Ok(cmsgpack)
}

/// Without limit and offset all values; else where the rest begins (-1: there is none), and up to so many values.
fn unpack_some(lua: &Lua, args: &Arguments<'_>, limit: i64, offset: i64) -> Unpacked<MultiValue> {
    let text = args.string(1)?;
    let bytes = text.as_bytes();
    let len = bytes.len();
    let (Ok(wanted), Ok(begin)) = (usize::try_from(limit), usize::try_from(offset)) else {
        let offset = offset as i32;
        return Err(Failure::message(format!("Invalid request to unpack with offset of {offset} and limit of {len}.")));
    };
    let mut rest = bytes.get(begin..).ok_or_else(|| {
        let offset = offset as i32;
        Failure::message(format!("Start offset {offset} greater than input length {len}."))
    })?;
    let all = wanted == 0 && begin == 0;
    let mut values = MultiValue::new();
    while !rest.is_empty() && (all || values.len() < wanted) {
        values.push_back(unpack(lua, &mut rest, 0)?);
    }
    if !all {
        values.push_front(Value::Number(if rest.is_empty() { -1.0 } else { (len - rest.len()) as f64 }));
    }
    Ok(values)
}

fn pack(value: &Value, depth: usize, out: &mut Vec<u8>) -> Unpacked<()> {
    match value {
        Value::Boolean(truth) => out.push(if *truth { 0xc3 } else { 0xc2 }),
        Value::Integer(number) => pack_integer(*number, out),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 9.2e18 => pack_integer(*number as i64, out),
        Value::Number(number) if f64::from(*number as f32) == *number => {
            out.push(0xca);
            out.extend_from_slice(&(*number as f32).to_be_bytes());
        }
        Value::Number(number) => {
            out.push(0xcb);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::String(text) => {
            let bytes = text.as_bytes();
            pack_len(bytes.len(), (0xa0, 31), [Some(0xd9), Some(0xda), Some(0xdb)], out);
            out.extend_from_slice(&bytes);
        }
        Value::Table(_) if depth >= DEPTH_MAX => out.push(0xc0),
        Value::Table(table) => return pack_table(table, depth, out),
        _ => out.push(0xc0),
    }
    Ok(())
}

fn pack_table(table: &Table, depth: usize, out: &mut Vec<u8>) -> Unpacked<()> {
    let pairs: Vec<(Value, Value)> = table.pairs().collect::<Result<_>>()?;
    let len = pairs.len();
    // Each from 1 on, up to as many as there are: then there is no hole. What Lua says of the length of a table with holes is not to be relied on.
    let is_array = pairs.iter().all(|(key, _)| match key {
        Value::Integer(at) => *at >= 1 && usize::try_from(*at).is_ok_and(|at| at <= len),
        Value::Number(at) => *at >= 1.0 && at.fract() == 0.0 && *at <= len as f64,
        _ => false,
    });
    if is_array {
        pack_len(len, (0x90, 15), [None, Some(0xdc), Some(0xdd)], out);
        return (1..=len).try_for_each(|at| pack(&table.raw_get(at)?, depth + 1, out));
    }
    pack_len(pairs.len(), (0x80, 15), [None, Some(0xde), Some(0xdf)], out);
    pairs.iter().try_for_each(|(key, value)| {
        pack(key, depth + 1, out)?;
        pack(value, depth + 1, out)
    })
}

/// A length: in the byte of the kind if it is small, else behind a byte that says how long it is itself.
fn pack_len(len: usize, (small, small_max): (u8, usize), wide: [Option<u8>; 3], out: &mut Vec<u8>) {
    let [one, two, four] = wide;
    match (u8::try_from(len), one) {
        (Ok(len), _) if usize::from(len) <= small_max => return out.push(small | len),
        (Ok(len), Some(kind)) => return out.extend_from_slice(&[kind, len]),
        _ => {}
    }
    match u16::try_from(len) {
        Ok(len) => {
            out.push(two.unwrap_or_default());
            out.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            out.push(four.unwrap_or_default());
            out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

fn pack_integer(number: i64, out: &mut Vec<u8>) {
    match number {
        0..128 => out.push(number as u8),
        -32..0 => out.push(number as i8 as u8),
        128..256 => out.extend_from_slice(&[0xcc, number as u8]),
        256..65_536 => {
            out.push(0xcd);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        65_536..4_294_967_296 => {
            out.push(0xce);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        4_294_967_296.. => {
            out.push(0xcf);
            out.extend_from_slice(&(number as u64).to_be_bytes());
        }
        -128..-32 => out.extend_from_slice(&[0xd0, number as i8 as u8]),
        -32_768..-128 => {
            out.push(0xd1);
            out.extend_from_slice(&(number as i16).to_be_bytes());
        }
        -2_147_483_648..-32_768 => {
            out.push(0xd2);
            out.extend_from_slice(&(number as i32).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

fn unpack(lua: &Lua, rest: &mut &[u8], depth: usize) -> Unpacked<Value> {
    const NESTED_MAX: usize = 200;
    if depth > NESTED_MAX {
        return Err(Failure::message("Bad data format in input."));
    }
    let [kind] = take::<1>(rest)?;
    let number = |number: f64| Ok(Value::Number(number));
    match kind {
        0x00..=0x7f => number(f64::from(kind)),
        0xe0..=0xff => number(f64::from(kind as i8)),
        0xc0 => Ok(Value::Nil),
        0xc2 => Ok(Value::Boolean(false)),
        0xc3 => Ok(Value::Boolean(true)),
        0xcc => number(f64::from(u8::from_be_bytes(take(rest)?))),
        0xcd => number(f64::from(u16::from_be_bytes(take(rest)?))),
        0xce => number(f64::from(u32::from_be_bytes(take(rest)?))),
        0xcf => number(u64::from_be_bytes(take(rest)?) as f64),
        0xd0 => number(f64::from(i8::from_be_bytes(take(rest)?))),
        0xd1 => number(f64::from(i16::from_be_bytes(take(rest)?))),
        0xd2 => number(f64::from(i32::from_be_bytes(take(rest)?))),
        0xd3 => number(i64::from_be_bytes(take(rest)?) as f64),
        0xca => number(f64::from(f32::from_be_bytes(take(rest)?))),
        0xcb => number(f64::from_be_bytes(take(rest)?)),
        0xa0..=0xbf => text(lua, rest, usize::from(kind & 31)),
        0xd9 => {
            let len = u8::from_be_bytes(take(rest)?);
            text(lua, rest, len.into())
        }
        0xda => {
            let len = u16::from_be_bytes(take(rest)?);
            text(lua, rest, len.into())
        }
        0xdb => {
            let len = u32::from_be_bytes(take(rest)?);
            text(lua, rest, len as usize)
        }
        0x90..=0x9f => array(lua, rest, usize::from(kind & 15), depth),
        0xdc => {
            let len = u16::from_be_bytes(take(rest)?);
            array(lua, rest, len.into(), depth)
        }
        0xdd => {
            let len = u32::from_be_bytes(take(rest)?);
            array(lua, rest, len as usize, depth)
        }
        0x80..=0x8f => map(lua, rest, usize::from(kind & 15), depth),
        0xde => {
            let len = u16::from_be_bytes(take(rest)?);
            map(lua, rest, len.into(), depth)
        }
        0xdf => {
            let len = u32::from_be_bytes(take(rest)?);
            map(lua, rest, len as usize, depth)
        }
        _ => Err(Failure::message("Bad data format in input.")),
    }
}

fn text(lua: &Lua, rest: &mut &[u8], len: usize) -> Unpacked<Value> {
    let (text, behind) = rest.split_at_checked(len).ok_or_else(short)?;
    *rest = behind;
    Ok(Value::String(lua.create_string(text)?))
}

fn array(lua: &Lua, rest: &mut &[u8], len: usize, depth: usize) -> Unpacked<Value> {
    let table = lua.create_table()?;
    for at in 1..=len {
        table.raw_set(at, unpack(lua, rest, depth + 1)?)?;
    }
    Ok(Value::Table(table))
}

fn map(lua: &Lua, rest: &mut &[u8], len: usize, depth: usize) -> Unpacked<Value> {
    let table = lua.create_table()?;
    for _ in 0..len {
        let key = unpack(lua, rest, depth + 1)?;
        table.raw_set(key, unpack(lua, rest, depth + 1)?)?;
    }
    Ok(Value::Table(table))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Unpacked<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk::<N>().ok_or_else(short)?;
    *rest = behind;
    Ok(*bytes)
}

fn short() -> Failure {
    Failure::message("Missing bytes in input.")
}
