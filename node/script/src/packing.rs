//! `struct`: values as bytes of C's types, as Roberto Ierusalimschy's library of that name defines them.
//!
//! `<` `>` little or big endian, `!n` alignment, `x` padding, `b B h H l L T i[n] I[n]` integers, `f d` floats, `s` a string with a zero
//! behind it, `c[n]` n bytes (`c0`: as many as the integer before says, or all).

use mlua::{Lua, MultiValue, Result, Table, Value};

use crate::arguments::{Arguments, Failure, function, one};

/// The largest integer that a format may ask for, in bytes.
const INTEGER_BYTES_MAX: usize = 32;
/// What `!` alone aligns to.
const ALIGN_MAX: usize = 8;

type Packed<T> = std::result::Result<T, Failure>;

pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let library = lua.create_table()?;
    library.set("pack", function(lua, pack)?)?;
    library.set("unpack", function(lua, unpack)?)?;
    library.set("size", function(lua, size)?)?;
    Ok(library)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Integer {
        size: usize,
        signed: bool,
    },
    Float,
    Double,
    Zeroed,
    /// 0 for as many as it takes.
    Bytes(usize),
    Pad,
}

impl Item {
    fn size(self) -> usize {
        match self {
            Self::Integer { size, .. } => size,
            Self::Float => 4,
            Self::Double => 8,
            Self::Pad => 1,
            Self::Bytes(count) => count,
            Self::Zeroed => 0,
        }
    }
}

/// Goes over a format: each item with the byte order and the alignment that hold for it.
struct Format<'a> {
    rest: &'a [u8],
    big_endian: bool,
    align: usize,
}

impl<'a> Format<'a> {
    fn new(format: &'a [u8]) -> Self {
        // As a string of C, it ends at a zero.
        let end = format.iter().position(|byte| *byte == 0).unwrap_or(format.len());
        Self { rest: format.get(..end).unwrap_or_default(), big_endian: false, align: 1 }
    }

    fn next(&mut self) -> Packed<Option<Item>> {
        loop {
            let Some((&letter, rest)) = self.rest.split_first() else { return Ok(None) };
            self.rest = rest;
            let integer = |size, signed| Ok(Some(Item::Integer { size, signed }));
            match letter {
                b' ' => {}
                b'<' => self.big_endian = false,
                b'>' => self.big_endian = true,
                b'!' => {
                    self.align = self.number(ALIGN_MAX)?;
                    if !self.align.is_power_of_two() {
                        return Err(Failure::message(format!("alignment {} is not a power of 2", self.align)));
                    }
                }
                b'b' => return integer(1, true),
                b'B' => return integer(1, false),
                b'h' => return integer(2, true),
                b'H' => return integer(2, false),
                b'l' => return integer(8, true),
                b'L' | b'T' => return integer(8, false),
                b'i' | b'I' => {
                    let size = self.number(4)?;
                    if size > INTEGER_BYTES_MAX {
                        let why = format!("integral size {size} is larger than limit of {INTEGER_BYTES_MAX}");
                        return Err(Failure::message(why));
                    }
                    return integer(size, letter == b'i');
                }
                b'f' => return Ok(Some(Item::Float)),
                b'd' => return Ok(Some(Item::Double)),
                b's' => return Ok(Some(Item::Zeroed)),
                b'x' => return Ok(Some(Item::Pad)),
                b'c' => return Ok(Some(Item::Bytes(self.number(1)?))),
                other => {
                    return Err(Failure::Argument(1, format!("invalid format option '{}'", char::from(other))));
                }
            }
        }
    }

    fn number(&mut self, otherwise: usize) -> Packed<usize> {
        let len = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let Some((digits, rest)) = self.rest.split_at_checked(len).filter(|_| len > 0) else { return Ok(otherwise) };
        self.rest = rest;
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<i32>().ok());
        number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| Failure::message("integral size overflow"))
    }

    /// How many bytes come before an item at this place.
    fn padding(&self, item: Item, at: usize) -> usize {
        let size = item.size().min(self.align);
        if size == 0 || matches!(item, Item::Bytes(_)) {
            return 0;
        }
        size.wrapping_sub(at & (size - 1)) & (size - 1)
    }
}

fn pack(lua: &Lua, args: &Arguments<'_>) -> Packed<MultiValue> {
    let format = args.string(1)?;
    let bytes = format.as_bytes();
    let (mut format, mut at, mut out) = (Format::new(&bytes), 1, Vec::new());
    while let Some(item) = format.next()? {
        out.resize(out.len() + format.padding(item, out.len()), 0);
        if item == Item::Pad {
            out.push(0);
            continue;
        }
        at += 1;
        // The library marks the end of its arguments with nil.
        let missing = |what: &str| Failure::Argument(at, format!("{what} expected, got nil"));
        let given = at <= args.len();
        match item {
            Item::Integer { size, .. } => {
                let number = if given { args.number(at)? } else { return Err(missing("number")) };
                let value = if number < 0.0 { number as i64 as u64 } else { number as u64 };
                let little = value.to_le_bytes();
                let bytes = (0..size).map(|place| little.get(place).copied().unwrap_or(0));
                if format.big_endian { out.extend(bytes.rev()) } else { out.extend(bytes) }
            }
            Item::Float => {
                let number = if given { args.number(at)? } else { return Err(missing("number")) };
                let bits = (number as f32).to_bits();
                out.extend(if format.big_endian { bits.to_be_bytes() } else { bits.to_le_bytes() });
            }
            Item::Double => {
                let number = if given { args.number(at)? } else { return Err(missing("number")) };
                let bits = number.to_bits();
                out.extend(if format.big_endian { bits.to_be_bytes() } else { bits.to_le_bytes() });
            }
            Item::Zeroed | Item::Bytes(_) => {
                let text = if given { args.string(at)? } else { return Err(missing("string")) };
                let text = text.as_bytes();
                let size = if item.size() == 0 { text.len() } else { item.size() };
                let kept = text.get(..size).ok_or_else(|| Failure::Argument(at + 1, "string too short".into()))?;
                out.extend_from_slice(kept);
                if item == Item::Zeroed {
                    out.push(0);
                }
            }
            Item::Pad => {}
        }
    }
    Ok(one(Value::String(lua.create_string(&out)?)))
}

/// The values, and then where the next one would begin.
fn unpack(lua: &Lua, args: &Arguments<'_>) -> Packed<MultiValue> {
    let (format, data) = (args.string(1)?, args.string(2)?);
    let (format, data) = (format.as_bytes(), data.as_bytes());
    let from = args.integer_or(3, 1)?;
    if from == 0 {
        return Err(Failure::Argument(3, "offset must be 1 or greater".into()));
    }
    let short = || Failure::Argument(2, "data string too short".into());
    let mut at = usize::try_from(from).map_err(|_| short())? - 1;
    let (mut format, mut values) = (Format::new(&format), Vec::new());
    while let Some(item) = format.next()? {
        at = at.saturating_add(format.padding(item, at));
        let rest = data.get(at..).filter(|rest| rest.len() >= item.size()).ok_or_else(short)?;
        let size = match item {
            Item::Bytes(0) => {
                let Some(size) = values.last().and_then(as_number) else {
                    return Err(Failure::message("format 'c0' needs a previous size"));
                };
                values.pop();
                size as usize
            }
            Item::Zeroed => {
                let end = rest.iter().position(|byte| *byte == 0);
                end.ok_or_else(|| Failure::message("unfinished string in data"))?
            }
            item => item.size(),
        };
        let bytes = rest.get(..size).ok_or_else(short)?;
        at += size;
        match item {
            Item::Pad => {}
            Item::Zeroed => {
                at += 1;
                values.push(Value::String(lua.create_string(bytes)?));
            }
            Item::Bytes(_) => values.push(Value::String(lua.create_string(bytes)?)),
            Item::Integer { .. } | Item::Float | Item::Double => {
                let bits = bits(bytes, format.big_endian);
                values.push(Value::Number(match item {
                    Item::Float => f64::from(f32::from_bits(bits as u32)),
                    Item::Double => f64::from_bits(bits),
                    Item::Integer { signed: true, size } => {
                        let shift = 64 - 8 * size.clamp(1, 8);
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

/// The lowest 64 bits of an integer.
fn bits(bytes: &[u8], big_endian: bool) -> u64 {
    let fold = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
    if big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
}

/// What counts as a number where one is looked for: text does, if it reads as one.
fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::String(text) => text.to_str().ok()?.trim().parse().ok(),
        _ => None,
    }
}

fn size(_: &Lua, args: &Arguments<'_>) -> Packed<MultiValue> {
    let format = args.string(1)?;
    let bytes = format.as_bytes();
    let (mut format, mut at) = (Format::new(&bytes), 0);
    while let Some(item) = format.next()? {
        let option = match item {
            Item::Zeroed => "s",
            Item::Bytes(0) => "c0",
            _ => {
                at += format.padding(item, at) + item.size();
                continue;
            }
        };
        return Err(Failure::Argument(1, format!("option '{option}' has no fixed size")));
    }
    Ok(one(Value::Number(at as f64)))
}
