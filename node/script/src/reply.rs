//! Replies to and from Lua, as Redis converts them.

use mlua::{Error, Lua, Result, Table, Value};
use ringmaster_engine::{Protocol, ReplyBuf, text_of};

/// How deep replies may nest.
const DEPTH_MAX: usize = 200;

/// One encoded reply as a value of Lua.
pub(crate) fn read(lua: &Lua, bytes: &[u8]) -> Result<Value> {
    let mut rest = bytes;
    read_one(lua, &mut rest, 0)
}

fn read_one(lua: &Lua, rest: &mut &[u8], depth: usize) -> Result<Value> {
    let short = || Error::runtime("a reply ends early");
    if depth > DEPTH_MAX {
        return Err(Error::runtime("reply is nested too deeply"));
    }
    let (&kind, body) = rest.split_first().ok_or_else(short)?;
    let end = body.windows(2).position(|pair| pair == b"\r\n").ok_or_else(short)?;
    let (line, behind) = body.split_at_checked(end).ok_or_else(short)?;
    *rest = behind.get(2..).unwrap_or_default();
    let number = || std::str::from_utf8(line).ok().and_then(|text| text.parse::<i64>().ok()).ok_or_else(short);
    let single = |name: &str, value: Value| {
        let table = lua.create_table_with_capacity(0, 1)?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
    };
    let text = |bytes: &[u8]| Ok::<Value, Error>(Value::String(lua.create_string(bytes)?));
    match kind {
        b'+' => single("ok", text(line)?),
        b'-' => single("err", text(line)?),
        b':' => Ok(Value::Number(number()? as f64)),
        b'_' => Ok(Value::Nil),
        b'#' => Ok(Value::Boolean(line == b"t")),
        b',' => {
            let number = match line {
                b"inf" => f64::INFINITY,
                b"-inf" => f64::NEG_INFINITY,
                _ => std::str::from_utf8(line).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN),
            };
            single("double", Value::Number(number))
        }
        b'(' => single("big_number", text(line)?),
        b'$' | b'=' | b'*' if line == b"-1" => Ok(Value::Boolean(false)),
        b'$' | b'=' => {
            let len = usize::try_from(number()?).map_err(|_| short())?;
            let (bulk, behind) = rest.split_at_checked(len).ok_or_else(short)?;
            *rest = behind.get(2..).unwrap_or_default();
            if kind == b'$' {
                return text(bulk);
            }
            let (format, string) = bulk.split_at_checked(4).ok_or_else(short)?;
            let parts = lua.create_table_with_capacity(0, 2)?;
            parts.raw_set("format", text(format.get(..3).unwrap_or_default())?)?;
            parts.raw_set("string", text(string)?)?;
            single("verbatim_string", Value::Table(parts))
        }
        b'*' | b'>' => {
            let len = usize::try_from(number()?).map_err(|_| short())?;
            let list = lua.create_table_with_capacity(len.min(1 << 16), 0)?;
            for at in 1..=len {
                // Not at the end: a null leaves a hole.
                list.raw_set(at, read_one(lua, rest, depth + 1)?)?;
            }
            Ok(Value::Table(list))
        }
        b'%' | b'~' => {
            let len = usize::try_from(number()?).map_err(|_| short())?;
            let table = lua.create_table()?;
            for _ in 0..len {
                let key = read_one(lua, rest, depth + 1)?;
                let value = if kind == b'%' { read_one(lua, rest, depth + 1)? } else { Value::Boolean(true) };
                if !key.is_nil() {
                    table.raw_set(key, value)?;
                }
            }
            single(if kind == b'%' { "map" } else { "set" }, Value::Table(table))
        }
        other => Err(Error::runtime(format!("{:?} begins no reply", char::from(other)))),
    }
}

/// A value of Lua as a reply; `protocol` is the one that the script asked for.
pub(crate) fn write(value: &Value, protocol: Protocol, reply: &mut ReplyBuf) -> Result<()> {
    write_one(value, protocol, reply, 0)
}

fn write_one(value: &Value, protocol: Protocol, reply: &mut ReplyBuf, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        reply.error("ERR reached lua stack limit");
        return Ok(());
    }
    match value {
        Value::String(text) => reply.bulk(&text.as_bytes()),
        Value::Integer(number) => reply.integer(*number),
        Value::Number(number) => reply.integer(truncated(*number)),
        Value::Boolean(truth) if protocol == Protocol::Resp3 => reply.boolean(*truth),
        Value::Boolean(true) => reply.integer(1),
        Value::Table(table) => return write_table(table, protocol, reply, depth),
        _ => reply.null(),
    }
    Ok(())
}

/// A number without its fraction. What is too large is the least integer, as the processors say that most servers run on.
pub(crate) fn truncated(number: f64) -> i64 {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if (-END..END).contains(&number) { number as i64 } else { i64::MIN }
}

/// Where a text of C ends.
fn up_to_zero(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn write_table(table: &Table, protocol: Protocol, reply: &mut ReplyBuf, depth: usize) -> Result<()> {
    let text = |name: &str| {
        Ok::<_, Error>(match table.raw_get::<Value>(name)? {
            Value::String(text) => Some(text.as_bytes().to_vec()),
            _ => None,
        })
    };
    if let Some(error) = text("err")? {
        reply.error(&text_of(&error));
        return Ok(());
    }
    if let Some(status) = text("ok")? {
        reply.status(&text_of(&status));
        return Ok(());
    }
    match table.raw_get::<Value>("double")? {
        Value::Number(number) => {
            reply.double(number);
            return Ok(());
        }
        Value::Integer(number) => {
            reply.double(number as f64);
            return Ok(());
        }
        _ => {}
    }
    if let Value::Table(map) = table.raw_get::<Value>("map")? {
        let pairs: Vec<(Value, Value)> = map.pairs().collect::<Result<_>>()?;
        reply.map(pairs.len());
        for (key, value) in &pairs {
            write_one(key, protocol, reply, depth + 1)?;
            write_one(value, protocol, reply, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::Table(set) = table.raw_get::<Value>("set")? {
        let members: Vec<(Value, Value)> = set.pairs().collect::<Result<_>>()?;
        reply.set(members.len());
        for (member, _) in &members {
            write_one(member, protocol, reply, depth + 1)?;
        }
        return Ok(());
    }
    if let Some(digits) = text("big_number")? {
        let one_line = |byte: &u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte };
        let digits: Vec<u8> = up_to_zero(&digits).iter().map(one_line).collect();
        reply.big_number(&digits);
        return Ok(());
    }
    if let Value::Table(parts) = table.raw_get::<Value>("verbatim_string")?
        && let (Value::String(format), Value::String(string)) = (parts.raw_get("format")?, parts.raw_get("string")?)
    {
        reply.verbatim(up_to_zero(&format.as_bytes()), &string.as_bytes());
        return Ok(());
    }
    // Up to the first hole.
    let mut items = Vec::new();
    loop {
        match table.raw_get::<Value>(items.len() + 1)? {
            Value::Nil => break,
            item => items.push(item),
        }
    }
    reply.array(items.len());
    items.iter().try_for_each(|item| write_one(item, protocol, reply, depth + 1))
}
