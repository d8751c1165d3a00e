//! JSON as lua-cjson reads it: what RFC 8259 allows, and of numbers all that C's `strtod` reads.

use mlua::{Lua, Table, Value};

use crate::arguments::Failure;

type Parsed<T> = std::result::Result<T, Failure>;

/// The value of a text.
pub(super) fn parse(lua: &Lua, bytes: &[u8], depth_max: usize) -> Parsed<Value> {
    if bytes.len() >= 2 && bytes.iter().take(2).any(|byte| *byte == 0) {
        return Err(Failure::message("JSON parser does not support UTF-16 or UTF-32"));
    }
    let mut parser = Parser { lua, bytes, at: 0, depth: 0, depth_max };
    let token = parser.token();
    let value = parser.value(token)?;
    match parser.token() {
        Token { kind: Kind::End, .. } => Ok(value),
        token => Err(token.instead_of("the end")),
    }
}

struct Token {
    kind: Kind,
    /// Where it begins, or where it goes wrong.
    at: usize,
}

enum Kind {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    Text(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Wrong(&'static str),
}

impl Token {
    fn instead_of(&self, wanted: &str) -> Failure {
        let found = match &self.kind {
            Kind::ObjectBegin => "T_OBJ_BEGIN",
            Kind::ObjectEnd => "T_OBJ_END",
            Kind::ArrayBegin => "T_ARR_BEGIN",
            Kind::ArrayEnd => "T_ARR_END",
            Kind::Text(_) => "T_STRING",
            Kind::Number(_) => "T_NUMBER",
            Kind::Boolean(_) => "T_BOOLEAN",
            Kind::Null => "T_NULL",
            Kind::Colon => "T_COLON",
            Kind::Comma => "T_COMMA",
            Kind::End => "T_END",
            Kind::Wrong(why) => why,
        };
        Failure::message(format!("Expected {wanted} but found {found} at character {}", self.at + 1))
    }
}

struct Parser<'a> {
    lua: &'a Lua,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    depth_max: usize,
}

impl Parser<'_> {
    fn value(&mut self, token: Token) -> Parsed<Value> {
        Ok(match token.kind {
            Kind::Text(text) => Value::String(self.lua.create_string(&text)?),
            Kind::Number(number) => Value::Number(number),
            Kind::Boolean(truth) => Value::Boolean(truth),
            Kind::Null => Value::NULL,
            Kind::ObjectBegin => Value::Table(self.object()?),
            Kind::ArrayBegin => Value::Table(self.array()?),
            _ => return Err(token.instead_of("value")),
        })
    }

    fn object(&mut self) -> Parsed<Table> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.token();
        if !matches!(token.kind, Kind::ObjectEnd) {
            loop {
                let Kind::Text(key) = token.kind else { return Err(token.instead_of("object key string")) };
                let key = self.lua.create_string(&key)?;
                let colon = self.token();
                if !matches!(colon.kind, Kind::Colon) {
                    return Err(colon.instead_of("colon"));
                }
                let value = self.token();
                table.raw_set(key, self.value(value)?)?;
                let behind = self.token();
                match behind.kind {
                    Kind::ObjectEnd => break,
                    Kind::Comma => token = self.token(),
                    _ => return Err(behind.instead_of("comma or object end")),
                }
            }
        }
        self.depth -= 1;
        Ok(table)
    }

    fn array(&mut self) -> Parsed<Table> {
        self.descend()?;
        let table = self.lua.create_table()?;
        let mut token = self.token();
        if !matches!(token.kind, Kind::ArrayEnd) {
            let mut count = 0;
            loop {
                count += 1;
                table.raw_set(count, self.value(token)?)?;
                let behind = self.token();
                match behind.kind {
                    Kind::ArrayEnd => break,
                    Kind::Comma => token = self.token(),
                    _ => return Err(behind.instead_of("comma or array end")),
                }
            }
        }
        self.depth -= 1;
        Ok(table)
    }

    fn descend(&mut self) -> Parsed<()> {
        self.depth += 1;
        if self.depth > self.depth_max {
            return Err(Failure::message(format!("Found too many nested data structures ({})", self.depth)));
        }
        Ok(())
    }

    fn token(&mut self) -> Token {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        let at = self.at;
        let kind = match self.peek() {
            0 => return Token { kind: Kind::End, at },
            b'{' => Kind::ObjectBegin,
            b'}' => Kind::ObjectEnd,
            b'[' => Kind::ArrayBegin,
            b']' => Kind::ArrayEnd,
            b':' => Kind::Colon,
            b',' => Kind::Comma,
            b'"' => {
                let kind = self.text();
                // One that goes wrong is found where it does.
                let at = if matches!(kind, Kind::Wrong(_)) { self.at } else { at };
                return Token { kind, at };
            }
            _ => return Token { kind: self.number_or_word(), at },
        };
        self.at += 1;
        Token { kind, at }
    }

    fn number_or_word(&mut self) -> Kind {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if matches!(self.peek(), b'-' | b'0'..=b'9') {
            return self.number();
        }
        for (word, kind) in [("true", Kind::Boolean(true)), ("false", Kind::Boolean(false)), ("null", Kind::Null)] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return kind;
            }
        }
        let begins = |word: &str| rest.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
        if self.peek() == b'+' || begins("inf") || begins("nan") {
            return self.number();
        }
        Kind::Wrong("invalid token")
    }

    fn number(&mut self) -> Kind {
        match strtod(self.bytes.get(self.at..).unwrap_or_default()) {
            Some((number, len)) => {
                self.at += len;
                Kind::Number(number)
            }
            None => Kind::Wrong("invalid number"),
        }
    }

    /// A string, from its opening quote to behind its closing one.
    fn text(&mut self) -> Kind {
        let mut text = Vec::new();
        self.at += 1;
        loop {
            match self.peek() {
                0 => return Kind::Wrong("unexpected end of string"),
                b'"' => break,
                b'\\' => {
                    let byte = match self.peek_at(1) {
                        b'u' => match self.unicode_escape() {
                            Some(letter) => {
                                text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                                continue;
                            }
                            None => return Kind::Wrong("invalid unicode escape code"),
                        },
                        byte @ (b'"' | b'\\' | b'/') => byte,
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        _ => return Kind::Wrong("invalid escape code"),
                    };
                    text.push(byte);
                    self.at += 2;
                }
                byte => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        Kind::Text(text)
    }

    /// `\uXXXX`, or two of them that make one letter.
    fn unicode_escape(&mut self) -> Option<char> {
        let first = self.hex4(2)?;
        if first & 0xf800 != 0xd800 {
            self.at += 6;
            return char::from_u32(first);
        }
        if first & 0x400 != 0 || self.peek_at(6) != b'\\' || self.peek_at(7) != b'u' {
            return None;
        }
        let second = self.hex4(8).filter(|second| second & 0xfc00 == 0xdc00)?;
        self.at += 12;
        char::from_u32(((first & 0x3ff) << 10 | second & 0x3ff) + 0x10000)
    }

    fn hex4(&self, offset: usize) -> Option<u32> {
        let begin = self.at + offset;
        let digits = self.bytes.get(begin..begin + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    /// The next byte, 0 at the end: as in C, a zero is the end.
    fn peek(&self) -> u8 {
        self.peek_at(0)
    }

    fn peek_at(&self, offset: usize) -> u8 {
        self.bytes.get(self.at + offset).copied().unwrap_or(0)
    }
}

/// The number at the beginning of a text, as C's `strtod` reads it, and its length: decimal, hexadecimal, infinity or none.
fn strtod(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let negative = text.first() == Some(&b'-');
    let rest = text.get(sign..).unwrap_or_default();
    let begins = |word: &str| rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
    let (magnitude, len) = if begins("infinity") {
        (f64::INFINITY, 8)
    } else if begins("inf") {
        (f64::INFINITY, 3)
    } else if begins("nan") {
        (f64::NAN, 3)
    } else if let Some(hex) = hexadecimal(rest) {
        hex
    } else {
        decimal(rest)?
    };
    Some((if negative { -magnitude } else { magnitude }, sign + len))
}

fn decimal(text: &[u8]) -> Option<(f64, usize)> {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let whole = digits(0);
    let mut len = whole;
    let mut fraction = 0;
    if text.get(len) == Some(&b'.') {
        fraction = digits(len + 1);
        if whole + fraction > 0 {
            len += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(text.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(text.get(len + 1), Some(b'-' | b'+')));
        let exponent = digits(len + 1 + sign);
        if exponent > 0 {
            len += 1 + sign + exponent;
        }
    }
    let number = std::str::from_utf8(text.get(..len)?).ok()?.parse().ok()?;
    Some((number, len))
}

/// `0x` and digits, with a fraction and a power of two.
fn hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    let rest = text.strip_prefix(b"0x").or_else(|| text.strip_prefix(b"0X"))?;
    let (mut value, mut len, mut digits, mut power) = (0.0f64, 0, 0, 0i32);
    let mut in_fraction = false;
    for byte in rest {
        match char::from(*byte).to_digit(16) {
            Some(digit) => {
                value = value * 16.0 + f64::from(digit);
                digits += 1;
                power -= if in_fraction { 4 } else { 0 };
            }
            None if *byte == b'.' && !in_fraction => in_fraction = true,
            None => break,
        }
        len += 1;
    }
    if digits == 0 {
        return None;
    }
    if matches!(rest.get(len), Some(b'p' | b'P')) {
        let sign = usize::from(matches!(rest.get(len + 1), Some(b'-' | b'+')));
        let behind = rest.get(len + 1 + sign..).unwrap_or_default();
        let count = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let exponent = behind.get(..count).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<i32>().ok());
        if let Some(exponent) = exponent {
            power = power.saturating_add(if rest.get(len + 1) == Some(&b'-') { -exponent } else { exponent });
            len += 1 + sign + count;
        }
    }
    Some((value * f64::from(power).exp2(), len + 2))
}
