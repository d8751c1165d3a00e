//! `cjson`: JSON as lua-cjson reads and writes it.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Error, Lua, LuaString, Result, Table, Value};

#[derive(Clone, Copy)]
struct Settings {
    encode_depth_max: usize,
    decode_depth_max: usize,
    number_precision: usize,
    /// Arrays with many holes are objects, rather than an error.
    sparse_as_object: bool,
    sparse_ratio: usize,
    sparse_safe: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            encode_depth_max: 1000,
            decode_depth_max: 1000,
            number_precision: 14,
            sparse_as_object: false,
            sparse_ratio: 2,
            sparse_safe: 10,
        }
    }
}

pub(crate) fn library(lua: &Lua) -> Result<Table> {
    let cjson = lua.create_table()?;
    let settings = Rc::new(Cell::new(Settings::default()));
    let encoding = Rc::clone(&settings);
    let encode = move |lua: &Lua, value: Value| {
        let mut out = Vec::new();
        encode(&value, &encoding.get(), 0, &mut out)?;
        lua.create_string(&out)
    };
    cjson.set("encode", lua.create_function(encode)?)?;
    let decoding = Rc::clone(&settings);
    let decode = move |lua: &Lua, text: LuaString| {
        let bytes = text.as_bytes();
        let mut parser = Parser { lua, bytes: &bytes, at: 0, depth_max: decoding.get().decode_depth_max };
        let value = parser.value(0)?;
        parser.skip_space();
        if parser.at < bytes.len() {
            return Err(parser.unexpected("the end"));
        }
        Ok(value)
    };
    cjson.set("decode", lua.create_function(decode)?)?;
    cjson.set("null", Value::NULL)?;
    cjson.set("_NAME", "cjson")?;
    cjson.set("_VERSION", "2.1.0")?;
    setting(lua, &cjson, &settings, "encode_max_depth", |s| &mut s.encode_depth_max)?;
    setting(lua, &cjson, &settings, "decode_max_depth", |s| &mut s.decode_depth_max)?;
    setting(lua, &cjson, &settings, "encode_number_precision", |s| &mut s.number_precision)?;
    let sparse = Rc::clone(&settings);
    let sparse = move |_: &Lua, (convert, ratio, safe): (Option<bool>, Option<usize>, Option<usize>)| {
        let mut changed = sparse.get();
        changed.sparse_as_object = convert.unwrap_or(changed.sparse_as_object);
        changed.sparse_ratio = ratio.unwrap_or(changed.sparse_ratio);
        changed.sparse_safe = safe.unwrap_or(changed.sparse_safe);
        sparse.set(changed);
        Ok((changed.sparse_as_object, changed.sparse_ratio, changed.sparse_safe))
    };
    cjson.set("encode_sparse_array", lua.create_function(sparse)?)?;
    Ok(cjson)
}

/// A function that changes a number of the settings, if one is given, and says what it is.
fn setting(
    lua: &Lua,
    cjson: &Table,
    settings: &Rc<Cell<Settings>>,
    name: &str,
    place: fn(&mut Settings) -> &mut usize,
) -> Result<()> {
    let settings = Rc::clone(settings);
    let function = lua.create_function(move |_, value: Option<usize>| {
        let mut changed = settings.get();
        if let Some(value) = value {
            *place(&mut changed) = value;
        }
        settings.set(changed);
        Ok(*place(&mut changed))
    })?;
    cjson.set(name, function)
}

fn encode(value: &Value, settings: &Settings, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(data) if data.0.is_null() => out.extend_from_slice(b"null"),
        Value::Boolean(truth) => out.extend_from_slice(if *truth { b"true" } else { b"false" }),
        Value::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::Number(number) => encode_number(*number, settings, out)?,
        Value::String(text) => encode_text(&text.as_bytes(), out),
        Value::Table(table) => return encode_table(table, settings, depth + 1, out),
        other => return Err(Error::runtime(format!("Cannot serialise {}: type not supported", other.type_name()))),
    }
    Ok(())
}

fn encode_number(number: f64, settings: &Settings, out: &mut Vec<u8>) -> Result<()> {
    if !number.is_finite() {
        return Err(Error::runtime("Cannot serialise number: must not be NaN or Inf"));
    }
    out.extend_from_slice(general(number, settings.number_precision.clamp(1, 17)).as_bytes());
    Ok(())
}

fn encode_table(table: &Table, settings: &Settings, depth: usize, out: &mut Vec<u8>) -> Result<()> {
    if depth > settings.encode_depth_max {
        return Err(Error::runtime(format!("Cannot serialise, excessive depth ({depth})")));
    }
    if let Some(len) = array_len(table, settings)? {
        out.push(b'[');
        for at in 1..=len {
            if at > 1 {
                out.push(b',');
            }
            encode(&table.raw_get(at)?, settings, depth, out)?;
        }
        out.push(b']');
        return Ok(());
    }
    out.push(b'{');
    let mut first = true;
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        match &key {
            Value::String(text) => encode_text(&text.as_bytes(), out),
            Value::Integer(_) | Value::Number(_) => {
                out.push(b'"');
                encode(&key, settings, depth, out)?;
                out.push(b'"');
            }
            _ => return Err(Error::runtime("Cannot serialise table: table key must be a number or string")),
        }
        out.push(b':');
        encode(&value, settings, depth, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// The length of a table that is an array; an empty one is an object.
fn array_len(table: &Table, settings: &Settings) -> Result<Option<usize>> {
    let (mut max, mut items) = (0, 0);
    for pair in table.pairs::<Value, Value>() {
        let at = match pair?.0 {
            Value::Integer(at) if at >= 1 => usize::try_from(at).unwrap_or(usize::MAX),
            Value::Number(at) if at >= 1.0 && at.fract() == 0.0 => at as usize,
            _ => return Ok(None),
        };
        (max, items) = (max.max(at), items + 1);
    }
    let sparse = settings.sparse_ratio > 0 && max > settings.sparse_safe && max > items * settings.sparse_ratio;
    match (sparse, settings.sparse_as_object) {
        (true, true) => Ok(None),
        (true, false) => Err(Error::runtime("Cannot serialise table: excessively sparse array")),
        (false, _) => Ok((max > 0).then_some(max)),
    }
}

fn encode_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'/' => out.extend_from_slice(b"\\/"),
            8 => out.extend_from_slice(b"\\b"),
            9 => out.extend_from_slice(b"\\t"),
            10 => out.extend_from_slice(b"\\n"),
            12 => out.extend_from_slice(b"\\f"),
            13 => out.extend_from_slice(b"\\r"),
            0..32 | 127 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// As C prints a number with `%.{precision}g`.
fn general(number: f64, precision: usize) -> String {
    if number == 0.0 {
        return if number.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let scientific = format!("{number:.*e}", precision - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let digits = i32::try_from(precision).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= digits {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(digits - 1 - exponent).unwrap_or(0);
    trim(&format!("{number:.decimals$}"))
}

struct Parser<'a> {
    lua: &'a Lua,
    bytes: &'a [u8],
    at: usize,
    depth_max: usize,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<Value> {
        if depth > self.depth_max {
            return Err(Error::runtime(format!("Found too many nested data structures ({depth})")));
        }
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.lua.create_string(self.text()?)?)),
            Some(b't') => self.word(b"true", Value::Boolean(true)),
            Some(b'f') => self.word(b"false", Value::Boolean(false)),
            Some(b'n') => self.word(b"null", Value::NULL),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected("value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value> {
        let table = self.lua.create_table()?;
        self.at += 1;
        self.skip_space();
        if self.eat(b'}') {
            return Ok(Value::Table(table));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("object key string"));
            }
            let key = self.lua.create_string(self.text()?)?;
            self.skip_space();
            if !self.eat(b':') {
                return Err(self.unexpected("colon"));
            }
            table.raw_set(key, self.value(depth + 1)?)?;
            self.skip_space();
            if self.eat(b'}') {
                return Ok(Value::Table(table));
            }
            if !self.eat(b',') {
                return Err(self.unexpected("comma or object end"));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value> {
        let table = self.lua.create_table()?;
        self.at += 1;
        self.skip_space();
        if self.eat(b']') {
            return Ok(Value::Table(table));
        }
        loop {
            table.raw_push(self.value(depth + 1)?)?;
            self.skip_space();
            if self.eat(b']') {
                return Ok(Value::Table(table));
            }
            if !self.eat(b',') {
                return Err(self.unexpected("comma or array end"));
            }
        }
    }

    fn word(&mut self, word: &[u8], value: Value) -> Result<Value> {
        let found = self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word));
        if !found {
            return Err(self.unexpected("value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Value> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        let text = rest.get(..len.unwrap_or(rest.len())).unwrap_or_default();
        let number: Option<f64> = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| self.unexpected("value"))?;
        self.at += text.len();
        Ok(Value::Number(number))
    }

    /// A string, from its opening quote to behind its closing one.
    fn text(&mut self) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        self.at += 1;
        loop {
            let byte = self.peek().ok_or_else(|| self.unexpected("string end"))?;
            self.at += 1;
            match byte {
                b'"' => return Ok(text),
                b'\\' => self.escape(&mut text)?,
                0..32 => {
                    self.at -= 1;
                    return Err(self.unexpected("value"));
                }
                _ => text.push(byte),
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<()> {
        let byte = self.peek().ok_or_else(|| self.unexpected("escape code"))?;
        self.at += 1;
        text.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let high = self.hex4()?;
                let code = if (0xd800..0xdc00).contains(&high) {
                    if !(self.eat(b'\\') && self.eat(b'u')) {
                        return Err(self.unexpected("unicode escape"));
                    }
                    let low = self.hex4()?;
                    0x10000 + ((high - 0xd800) << 10) + low.wrapping_sub(0xdc00)
                } else {
                    high
                };
                let letter = char::from_u32(code).ok_or_else(|| self.unexpected("unicode escape"))?;
                text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.unexpected("escape code")),
        });
        Ok(())
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        code.ok_or_else(|| self.unexpected("unicode escape"))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, wanted: &str) -> Error {
        let found = match self.peek() {
            None => "T_END",
            Some(b'}') => "T_OBJ_END",
            Some(b']') => "T_ARR_END",
            Some(b',') => "T_COMMA",
            Some(b':') => "T_COLON",
            Some(_) => "invalid token",
        };
        Error::runtime(format!("Expected {wanted} but found {found} at character {}", self.at + 1))
    }
}
