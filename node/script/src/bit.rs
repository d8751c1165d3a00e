//! `bit`: operations on 32 bits, as LuaBitOp defines them.

use mlua::{Error, Lua, Result, Table, Value, Variadic};

pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let bit = lua.create_table()?;
    bit.set("tobit", lua.create_function(|_, value: Value| signed(bits(&value)?))?)?;
    bit.set("bnot", lua.create_function(|_, value: Value| signed(!bits(&value)?))?)?;
    bit.set("bswap", lua.create_function(|_, value: Value| signed(bits(&value)?.swap_bytes()))?)?;
    for (name, fold) in [("band", (|a, b| a & b) as fn(u32, u32) -> u32), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)]
    {
        let function = lua.create_function(move |_, values: Variadic<Value>| {
            let all: Vec<u32> = values.iter().map(bits).collect::<Result<_>>()?;
            signed(
                all.into_iter()
                    .reduce(fold)
                    .ok_or_else(|| Error::runtime("bad argument #1 (number expected, got no value)"))?,
            )
        })?;
        bit.set(name, function)?;
    }
    for (name, shift) in [
        ("lshift", (|a, n| a << n) as fn(u32, u32) -> u32),
        ("rshift", |a, n| a >> n),
        ("arshift", |a, n| ((a as i32) >> n) as u32),
        ("rol", u32::rotate_left),
        ("ror", u32::rotate_right),
    ] {
        let function =
            lua.create_function(move |_, (value, by): (Value, Value)| signed(shift(bits(&value)?, bits(&by)? & 31)))?;
        bit.set(name, function)?;
    }
    let tohex = |_: &Lua, (value, digits): (Value, Option<i64>)| {
        let (digits, value) = (digits.unwrap_or(8), bits(&value)?);
        let text = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
        let count = usize::try_from(digits.unsigned_abs()).unwrap_or(8).min(8);
        Ok(text.get(8 - count..).unwrap_or_default().to_owned())
    };
    bit.set("tohex", lua.create_function(tohex)?)?;
    Ok(bit)
}

fn signed(bits: u32) -> Result<f64> {
    Ok(f64::from(bits as i32))
}

/// A number modulo 2³².
fn bits(value: &Value) -> Result<u32> {
    match value {
        Value::Integer(value) => Ok(*value as u32),
        Value::Number(value) => Ok(value.round_ties_even().rem_euclid(4_294_967_296.0) as u32),
        Value::String(text) => {
            let number =
                text.to_str()?.trim().parse::<f64>().map_err(|_| Error::runtime("number expected, got string"))?;
            bits(&Value::Number(number))
        }
        other => Err(Error::runtime(format!("number expected, got {}", other.type_name()))),
    }
}
