//! Replies as values that can be compared: RESP2 and RESP3 in, a tree out, and a form in which order that means nothing is gone.

use std::fmt;
use std::io::BufRead;

use anyhow::{Context, bail};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    NullBulk,
    NullArray,
    Double(String),
    Boolean(bool),
    BigNumber(String),
    Verbatim(Vec<u8>),
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Map(Vec<Reply>),
    Push(Vec<Reply>),
}

impl Reply {
    /// Reads one reply.
    pub fn read(from: &mut impl BufRead) -> anyhow::Result<Self> {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        let Some((kind, text)) = line.strip_suffix(b"\r\n").and_then(|line| line.split_first()) else {
            bail!("the connection ended, or a reply has no end: {}", line.escape_ascii());
        };
        // Each byte as a letter, so that none is lost where it is no UTF-8.
        let text: String = text.iter().copied().map(char::from).collect();
        let length = || text.parse::<usize>().with_context(|| format!("length {text}"));
        Ok(match kind {
            b'+' => Self::Simple(text),
            b'-' => Self::Error(text),
            b':' => Self::Integer(text.parse()?),
            b',' => Self::Double(text),
            b'#' => Self::Boolean(text == "t"),
            b'(' => Self::BigNumber(text),
            b'_' => Self::Null,
            b'$' if text == "-1" => Self::NullBulk,
            b'*' if text == "-1" => Self::NullArray,
            b'$' => Self::Bulk(bytes(from, length()?)?),
            b'=' => Self::Verbatim(bytes(from, length()?)?),
            b'*' => Self::Array(many(from, length()?)?),
            b'~' => Self::Set(many(from, length()?)?),
            b'>' => Self::Push(many(from, length()?)?),
            b'%' => Self::Map(many(from, length()? * 2)?),
            other => bail!("a reply of unknown kind {}", other.escape_ascii()),
        })
    }

    /// The elements of an aggregate, none for anything else.
    pub fn elements(&self) -> &[Self] {
        match self {
            Self::Array(of) | Self::Set(of) | Self::Map(of) | Self::Push(of) => of,
            _ => &[],
        }
    }

    fn elements_mut(&mut self) -> Option<&mut Vec<Self>> {
        match self {
            Self::Array(of) | Self::Set(of) | Self::Map(of) | Self::Push(of) => Some(of),
            _ => None,
        }
    }

    /// Sorts sets by member and maps by key, at any depth: RESP3 says that their order means nothing.
    pub fn sorted(mut self) -> Self {
        if let Some(elements) = self.elements_mut() {
            *elements = std::mem::take(elements).into_iter().map(Self::sorted).collect();
        }
        let run = match &self {
            Self::Set(_) => 1,
            Self::Map(_) => 2,
            _ => return self,
        };
        self.sort_runs(run);
        self
    }

    /// Sorts an aggregate whose elements belong together in runs of `run`.
    pub fn sort_runs(&mut self, run: usize) {
        if let Some(elements) = self.elements_mut() {
            let mut runs: Vec<Vec<Self>> = elements.chunks(run).map(<[Self]>::to_vec).collect();
            runs.sort();
            *elements = runs.concat();
        }
    }

    /// The element at `index`, to be changed.
    pub fn element_mut(&mut self, index: usize) -> Option<&mut Self> {
        self.elements_mut()?.get_mut(index)
    }

    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The bytes of anything that is text, none of anything else.
    pub fn text(&self) -> &[u8] {
        match self {
            Self::Simple(text) | Self::Error(text) => text.as_bytes(),
            Self::Bulk(bytes) | Self::Verbatim(bytes) => bytes,
            _ => &[],
        }
    }

    pub fn is_error(&self, code: &str) -> bool {
        matches!(self, Self::Error(text) if text.strip_prefix(code).is_some_and(|rest| rest.starts_with(' ')))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null | Self::NullBulk | Self::NullArray)
    }

    /// Sorts aggregates of every kind at any depth.
    pub fn sort_all(&mut self) {
        if let Some(elements) = self.elements_mut() {
            elements.iter_mut().for_each(Self::sort_all);
            elements.sort();
        }
    }

    pub fn bulk(&self) -> Option<&[u8]> {
        match self {
            Self::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }
}

fn bytes(from: &mut impl BufRead, len: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; len + 2];
    from.read_exact(&mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

fn many(from: &mut impl BufRead, count: usize) -> anyhow::Result<Vec<Reply>> {
    (0..count).map(|_| Reply::read(from)).collect()
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aggregate = |f: &mut fmt::Formatter<'_>, open: char, of: &[Self], close: char| {
            write!(f, "{open}")?;
            for (number, element) in of.iter().enumerate() {
                write!(f, "{}{element}", if number > 0 { " " } else { "" })?;
            }
            write!(f, "{close}")
        };
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Integer(value) => write!(f, ":{value}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Null => f.write_str("(null)"),
            Self::NullBulk => f.write_str("(null bulk)"),
            Self::NullArray => f.write_str("(null array)"),
            Self::Double(text) => write!(f, ",{text}"),
            Self::Boolean(value) => write!(f, "#{value}"),
            Self::BigNumber(text) => write!(f, "({text}"),
            Self::Verbatim(bytes) => write!(f, "={}", bytes.escape_ascii()),
            Self::Array(of) => aggregate(f, '[', of, ']'),
            Self::Set(of) => aggregate(f, '<', of, '>'),
            Self::Map(of) => aggregate(f, '{', of, '}'),
            Self::Push(of) => aggregate(f, '!', of, '!'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reply;

    #[test]
    fn order_counts_only_where_it_means_something() {
        let read = |wire: &str| Reply::read(&mut wire.as_bytes()).unwrap().sorted().to_string();
        assert_eq!(read("~2\r\n:2\r\n:1\r\n"), "<:1 :2>");
        assert_eq!(read("*2\r\n:2\r\n:1\r\n"), "[:2 :1]");
        assert_eq!(read("%2\r\n+b\r\n~2\r\n$1\r\nz\r\n$1\r\ny\r\n+a\r\n_\r\n"), "{+a (null) +b <\"y\" \"z\">}");
    }
}
