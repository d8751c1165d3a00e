//! `cjson`: JSON as lua-cjson reads (`json_parser`) and writes it.

use std::cell::Cell;
use std::rc::Rc;

use mlua::{Lua, Result, Table, Value};

use crate::arguments::{Arguments, Failure, function, one, type_name};
use crate::json_parser;

type Encoded<T> = std::result::Result<T, Failure>;

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
    let encode = move |lua: &Lua, args: &Arguments<'_>| {
        let mut out = Vec::new();
        encode(only(args)?, &encoding.get(), 0, &mut out)?;
        Ok(one(Value::String(lua.create_string(&out)?)))
    };
    cjson.set("encode", function(lua, encode)?)?;
    let decoding = Rc::clone(&settings);
    let decode = move |lua: &Lua, args: &Arguments<'_>| {
        only(args)?;
        let text = args.string(1)?;
        Ok(one(json_parser::parse(lua, &text.as_bytes(), decoding.get().decode_depth_max)?))
    };
    cjson.set("decode", function(lua, decode)?)?;
    cjson.set("null", Value::NULL)?;
    cjson.set("_NAME", "cjson")?;
    cjson.set("_VERSION", "2.1.0")?;
    setting(lua, &cjson, &settings, ("encode_max_depth", i32::MAX as usize), |s| &mut s.encode_depth_max)?;
    setting(lua, &cjson, &settings, ("decode_max_depth", i32::MAX as usize), |s| &mut s.decode_depth_max)?;
    setting(lua, &cjson, &settings, ("encode_number_precision", 16), |s| &mut s.number_precision)?;
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

fn only<'a>(args: &'a Arguments<'_>) -> Encoded<&'a Value> {
    args.value(1).filter(|_| args.len() == 1).ok_or_else(|| Failure::Argument(1, "expected 1 argument".into()))
}

/// A function that changes a number of the settings, if one is given, and says what it is.
fn setting(
    lua: &Lua,
    cjson: &Table,
    settings: &Rc<Cell<Settings>>,
    (name, max): (&str, usize),
    place: fn(&mut Settings) -> &mut usize,
) -> Result<()> {
    let settings = Rc::clone(settings);
    let function = function(lua, move |_, args| {
        let mut changed = settings.get();
        if !matches!(args.value(1), None | Some(Value::Nil)) {
            let value = usize::try_from(args.integer(1)?).ok().filter(|value| (1..=max).contains(value));
            let why = || Failure::Argument(1, format!("expected integer between 1 and {max}"));
            *place(&mut changed) = value.ok_or_else(why)?;
        }
        settings.set(changed);
        Ok(one(Value::Number(*place(&mut changed) as f64)))
    })?;
    cjson.set(name, function)
}

fn encode(value: &Value, settings: &Settings, depth: usize, out: &mut Vec<u8>) -> Encoded<()> {
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(data) if data.0.is_null() => out.extend_from_slice(b"null"),
        Value::Boolean(truth) => out.extend_from_slice(if *truth { b"true" } else { b"false" }),
        Value::Integer(number) => encode_number(*number as f64, settings, out)?,
        Value::Number(number) => encode_number(*number, settings, out)?,
        Value::String(text) => encode_text(&text.as_bytes(), out),
        Value::Table(table) => return encode_table(table, settings, depth + 1, out),
        other => return Err(Failure::message(format!("Cannot serialise {}: type not supported", type_name(other)))),
    }
    Ok(())
}

fn encode_number(number: f64, settings: &Settings, out: &mut Vec<u8>) -> Encoded<()> {
    if !number.is_finite() {
        return Err(Failure::message("Cannot serialise number: must not be NaN or Inf"));
    }
    out.extend_from_slice(general(number, settings.number_precision.clamp(1, 17)).as_bytes());
    Ok(())
}

fn encode_table(table: &Table, settings: &Settings, depth: usize, out: &mut Vec<u8>) -> Encoded<()> {
    if depth > settings.encode_depth_max {
        return Err(Failure::message(format!("Cannot serialise, excessive nesting ({depth})")));
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
            other => {
                let name = type_name(other);
                return Err(Failure::message(format!("Cannot serialise {name}: table key must be a number or string")));
            }
        }
        out.push(b':');
        encode(&value, settings, depth, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// The length of a table that is an array; an empty one is an object.
fn array_len(table: &Table, settings: &Settings) -> Encoded<Option<usize>> {
    // An index that is no int of C makes an object of the table.
    let (mut max, mut items) = (0i32, 0usize);
    for pair in table.pairs::<Value, Value>() {
        let at = match pair?.0 {
            Value::Integer(at) => at as f64,
            Value::Number(at) => at,
            _ => return Ok(None),
        };
        if at < 1.0 || at.fract() != 0.0 {
            return Ok(None);
        }
        if at > f64::from(max) {
            max = if at <= f64::from(i32::MAX) { at as i32 } else { i32::MIN };
        }
        items += 1;
    }
    let Some(len) = usize::try_from(max).ok().filter(|len| *len > 0) else { return Ok(None) };
    let sparse = settings.sparse_ratio > 0 && len > settings.sparse_safe && len > items * settings.sparse_ratio;
    match (sparse, settings.sparse_as_object) {
        (true, true) => Ok(None),
        (true, false) => Err(Failure::message("Cannot serialise table: excessively sparse array")),
        (false, _) => Ok(Some(len)),
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
