//! `bit`: operations on 32 bits, as LuaBitOp defines them.

use mlua::{Lua, Result, Table, Value};

use crate::arguments::{Arguments, Failure, function, one};

pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let bit = lua.create_table()?;
    bit.set("tobit", function(lua, |_, args| Ok(signed(bits(args, 1)?)))?)?;
    bit.set("bnot", function(lua, |_, args| Ok(signed(!bits(args, 1)?)))?)?;
    bit.set("bswap", function(lua, |_, args| Ok(signed(bits(args, 1)?.swap_bytes())))?)?;
    for (name, fold) in [("band", (|a, b| a & b) as fn(u32, u32) -> u32), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)]
    {
        let function = function(lua, move |_, args| {
            let first = bits(args, 1)?;
            // The last one first: of several that are no numbers it is named.
            Ok(signed(
                (2..=args.len())
                    .rev()
                    .try_fold(first, |all, number| Ok::<_, Failure>(fold(all, bits(args, number)?)))?,
            ))
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
        bit.set(name, function(lua, move |_, args| Ok(signed(shift(bits(args, 1)?, bits(args, 2)? & 31))))?)?;
    }
    let tohex = |lua: &Lua, args: &Arguments<'_>| {
        let value = bits(args, 1)?;
        let digits = if args.len() < 2 { 8 } else { bits(args, 2)? as i32 };
        let text = if digits < 0 { format!("{value:08X}") } else { format!("{value:08x}") };
        let count = usize::try_from(digits.unsigned_abs()).unwrap_or(8).min(8);
        Ok(one(Value::String(lua.create_string(text.get(8 - count..).unwrap_or_default())?)))
    };
    bit.set("tohex", function(lua, tohex)?)?;
    Ok(bit)
}

fn signed(bits: u32) -> mlua::MultiValue {
    one(Value::Number(f64::from(bits as i32)))
}

/// The lowest 32 bits of a number, rounded. Beyond 2⁵¹ they are those that the sum below leaves in a double, whatever they mean.
fn bits(args: &Arguments<'_>, number: usize) -> std::result::Result<u32, Failure> {
    const TO_LOWEST_BITS: f64 = 6_755_399_441_055_744.0;
    Ok((args.number(number)? + TO_LOWEST_BITS).to_bits() as u32)
}
