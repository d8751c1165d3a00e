//! `struct`: values as bytes of C's types, as Roberto Ierusalimschy's library of that name defines them.
//!
//! `<` `>` little or big endian, `!n` alignment, `x` padding, `b B h H l L i[n] I[n]` integers, `f d` floats, `s` a string with a zero behind
//! it, `c[n]` n bytes (`c0`: as many as the integer before says, or all).

use mlua::{Error, Lua, LuaString, MultiValue, Result, Table, Value, Variadic};

pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let library = lua.create_table()?;
    library.set(
        "pack",
        lua.create_function(|lua, (format, values): (LuaString, Variadic<Value>)| {
            lua.create_string(pack(&format.as_bytes(), &values)?)
        })?,
    )?;
    library.set(
        "unpack",
        lua.create_function(|lua, (format, data, from): (LuaString, LuaString, Option<usize>)| {
            unpack(lua, &format.as_bytes(), &data.as_bytes(), from.unwrap_or(1).saturating_sub(1))
        })?,
    )?;
    library.set("size", lua.create_function(|_, format: LuaString| size(&format.as_bytes()))?)?;
    Ok(library)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Integer { size: usize, signed: bool },
    Float,
    Double,
    Zeroed,
    Bytes(Option<usize>),
    Pad,
}

impl Item {
    fn size(self) -> usize {
        match self {
            Self::Integer { size, .. } => size,
            Self::Float => 4,
            Self::Double => 8,
            Self::Pad => 1,
            Self::Bytes(Some(count)) => count,
            Self::Bytes(None) | Self::Zeroed => 0,
        }
    }

    fn is_aligned(self) -> bool {
        matches!(self, Self::Integer { .. } | Self::Float | Self::Double)
    }
}

/// Goes over a format: each item with the byte order and the alignment that hold for it.
struct Format<'a> {
    rest: &'a [u8],
    big_endian: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(rest: &'a [u8]) -> Self {
        Self { rest, big_endian: false, align: 1 }
    }

    fn next(&mut self) -> Result<Option<Item>> {
        loop {
            let Some((&letter, rest)) = self.rest.split_first() else { return Ok(None) };
            self.rest = rest;
            let integer = |size, signed| Ok(Some(Item::Integer { size, signed }));
            match letter {
                b' ' => {}
                b'<' | b'=' => self.big_endian = false,
                b'>' => self.big_endian = true,
                b'!' => {
                    self.align = self.number().unwrap_or(8);
                    if !self.align.is_power_of_two() {
                        return Err(Error::runtime("alignment is not a power of 2"));
                    }
                }
                b'b' => return integer(1, true),
                b'B' => return integer(1, false),
                b'h' => return integer(2, true),
                b'H' => return integer(2, false),
                b'l' => return integer(8, true),
                b'L' | b'T' => return integer(8, false),
                b'i' | b'I' => {
                    let size = self.number().unwrap_or(4);
                    if !(1..=8).contains(&size) {
                        return Err(Error::runtime(format!("integral size {size} is larger than limit of 32")));
                    }
                    return integer(size, letter == b'i');
                }
                b'f' => return Ok(Some(Item::Float)),
                b'd' | b'n' => return Ok(Some(Item::Double)),
                b's' => return Ok(Some(Item::Zeroed)),
                b'x' => return Ok(Some(Item::Pad)),
                b'c' => {
                    let count = self.number().unwrap_or(1);
                    return Ok(Some(Item::Bytes((count > 0).then_some(count))));
                }
                other => return Err(Error::runtime(format!("invalid format option '{}'", char::from(other)))),
            }
        }
    }

    fn number(&mut self) -> Option<usize> {
        let len = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.rest.split_at_checked(len).filter(|_| len > 0)?;
        self.rest = rest;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// How many bytes come before an item at this place.
    fn padding(&self, item: Item, at: usize) -> usize {
        let align = item.size().min(self.align).max(1);
        if !item.is_aligned() || !align.is_power_of_two() { 0 } else { at.wrapping_neg() & (align - 1) }
    }
}

fn pack(format: &[u8], values: &[Value]) -> Result<Vec<u8>> {
    let (mut format, mut values, mut out) = (Format::new(format), values.iter(), Vec::new());
    while let Some(item) = format.next()? {
        out.resize(out.len() + format.padding(item, out.len()), 0);
        if item == Item::Pad {
            out.push(0);
            continue;
        }
        let value = values.next().ok_or_else(|| Error::runtime("bad argument to 'pack' (no value)"))?;
        match item {
            Item::Integer { size, .. } => {
                let bytes = (number(value)? as i128 as u128 as u64).to_le_bytes();
                let kept = bytes.get(..size).unwrap_or_default();
                if format.big_endian { out.extend(kept.iter().rev()) } else { out.extend(kept) }
            }
            Item::Float => {
                let bits = (number(value)? as f32).to_bits();
                out.extend(if format.big_endian { bits.to_be_bytes() } else { bits.to_le_bytes() });
            }
            Item::Double => {
                let bits = number(value)?.to_bits();
                out.extend(if format.big_endian { bits.to_be_bytes() } else { bits.to_le_bytes() });
            }
            Item::Zeroed => {
                out.extend_from_slice(&text(value)?);
                out.push(0);
            }
            Item::Bytes(count) => {
                let text = text(value)?;
                let kept = text.get(..count.unwrap_or(text.len()));
                out.extend_from_slice(kept.ok_or_else(|| Error::runtime("bad argument to 'pack' (string too short)"))?);
            }
            Item::Pad => {}
        }
    }
    Ok(out)
}

/// The values, and then where the next one would begin.
fn unpack(lua: &Lua, format: &[u8], data: &[u8], from: usize) -> Result<MultiValue> {
    let short = || Error::runtime("data string too short");
    let (mut format, mut at, mut values) = (Format::new(format), from, Vec::new());
    while let Some(item) = format.next()? {
        at += format.padding(item, at);
        let rest = data.get(at..).ok_or_else(short)?;
        let size = match item {
            Item::Bytes(None) => {
                let Some(Value::Number(size)) = values.pop() else {
                    return Err(Error::runtime("format 'c0' needs a previous size"));
                };
                size as usize
            }
            Item::Zeroed => {
                rest.iter().position(|byte| *byte == 0).ok_or_else(|| Error::runtime("unfinished string in data"))?
            }
            item => item.size(),
        };
        let bytes = rest.get(..size).ok_or_else(short)?;
        at += size;
        let mut eight = [0; 8];
        match item {
            Item::Pad => {}
            Item::Zeroed => {
                at += 1;
                values.push(Value::String(lua.create_string(bytes)?));
            }
            Item::Bytes(_) => values.push(Value::String(lua.create_string(bytes)?)),
            Item::Integer { .. } | Item::Float | Item::Double => {
                for (place, byte) in eight.iter_mut().zip(bytes) {
                    *place = *byte;
                }
                if format.big_endian
                    && let Some(used) = eight.get_mut(..size)
                {
                    used.reverse();
                }
                let bits = u64::from_le_bytes(eight);
                values.push(Value::Number(match item {
                    Item::Float => f64::from(f32::from_bits(bits as u32)),
                    Item::Double => f64::from_bits(bits),
                    Item::Integer { signed: true, size } => {
                        let shift = 64 - 8 * size;
                        ((bits << shift) as i64 >> shift) as f64
                    }
                    _ => bits as f64,
                }));
            }
        }
    }
    values.push(Value::Number((at + 1) as f64));
    Ok(MultiValue::from_vec(values))
}

fn size(format: &[u8]) -> Result<usize> {
    let (mut format, mut at) = (Format::new(format), 0);
    while let Some(item) = format.next()? {
        if matches!(item, Item::Zeroed | Item::Bytes(None)) {
            return Err(Error::runtime("variable-size format in 'size'"));
        }
        at += format.padding(item, at) + item.size();
    }
    Ok(at)
}

fn number(value: &Value) -> Result<f64> {
    match value {
        Value::Integer(number) => Ok(*number as f64),
        Value::Number(number) => Ok(*number),
        other => Err(Error::runtime(format!("number expected, got {}", other.type_name()))),
    }
}

fn text(value: &Value) -> Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        other => Err(Error::runtime(format!("string expected, got {}", other.type_name()))),
    }
}
